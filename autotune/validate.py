"""Validation: the finalists really decode held-out prompts with the target."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autotune.contest import Contender, ContestRequest, Tally, hold_contest
from autotune.devices import device_lock
from autotune.errors import AutotuneError
from autotune.finalists import Finalist, finish_drafts, make_finalists
from autotune.progress import Observer
from autotune.results import Figure, Rejected, TargetLatency, TrialRecord, Validated
from autotune.tallies import speed, speedup, tokens_per_round
from autotune.target_side import measure_target
from autotune.workbench import Workbench

REPEATS = 2
_DRIFT = 0.1
"""A change of the target's step time since the database kept it that is worth telling."""


@dataclass(frozen=True)
class Validation:
    """What the contest found: the target alone, and every finalist beside what was predicted of it."""

    baseline: Figure
    """Tokens/s of the target alone."""
    entries: tuple[tuple[Finalist, Validated], ...]

    @property
    def winner(self) -> tuple[Finalist, Validated] | None:
        """The fastest finalist that beats the target alone and never altered its output; None if there is none."""
        faster = [
            entry
            for entry in self.entries
            if entry[1].tokens_per_s_measured.value > self.baseline.value and not entry[1].mismatches
        ]
        return max(faster, key=lambda entry: entry[1].tokens_per_s_measured.value, default=None)


def validate(bench: Workbench, records: Sequence[TrialRecord], work: Path, observer: Observer) -> Validation:
    """The contest of the finalists made from these records.

    The latencies behind the predictions are taken anew right before the contest, never from the tuning database, so
    that the comparison of predicted and measured speed tests the model of a round and not the weather on the machine.
    """
    drafts = finish_drafts(bench, records, observer)
    observer.phase("Decoding held-out prompts for real")
    settings, limits = bench.latency.verify.settings, bench.evaluator.limits.run
    latency = measure_target(bench.request, bench.program, settings, limits)
    if isinstance(latency, Rejected):
        raise AutotuneError(f"the target cannot be measured any more: {latency.reason.value}, {latency.detail}")
    _tell_drift(bench.latency, latency, observer)
    evaluator = replace(bench.evaluator, target=latency)
    finalists = make_finalists(bench, evaluator, records, drafts, work, observer)
    request = _contest(bench, finalists)
    # Twenty times what the target alone would take is far beyond any honest round.
    expected_s = latency.step_s * request.max_new_tokens * len(request.prompts) * request.repeats * (len(finalists) + 1)
    limits = replace(limits, time_s=limits.time_s + 20 * expected_s)
    result = hold_contest(request, limits, device_lock(bench.request.device.kind))
    if isinstance(result, Rejected):
        raise AutotuneError(f"the finalists could not be validated: {result.reason.value}, {result.detail}")
    alone, *tallies = result.tallies
    entries = [(finalist, _judge(finalist, alone, tally)) for finalist, tally in zip(finalists, tallies, strict=True)]
    return Validation(speed(alone), tuple(entries))


def _tell_drift(before: TargetLatency, latency: TargetLatency, observer: Observer) -> None:
    """Say so if the machine is not as fast as when the database's latencies, which the search used, were measured."""
    ratio = latency.step_s / before.step_s
    if before.date is not None and abs(ratio - 1) > _DRIFT:
        observer.note(
            f"a step of the target alone takes {ratio:.2f} times as long as the tuning database knew from "
            f"{before.date}: builds measured since then compare unevenly (--no-database measures all anew)"
        )


def _contest(bench: Workbench, finalists: Sequence[Finalist]) -> ContestRequest:
    config = bench.request.config
    return ContestRequest(
        target=str(bench.program),
        contenders=tuple(Contender(str(finalist.program), finalist.score.lookahead) for finalist in finalists),
        prompts=tuple(tuple(prompt.tolist()) for prompt in bench.own_text.traces.validate),
        max_new_tokens=config.max_new_tokens,
        sampling=config.sampling,
        eos_ids=bench.request.whole_target.eos_ids,
        seed=config.seed,
        threads=bench.threads,
        repeats=REPEATS,
    )


def _judge(finalist: Finalist, alone: Tally, tally: Tally) -> Validated:
    """What was predicted of a finalist beside what it did."""
    pooled, score = tally.pooled(), finalist.score
    return Validated(
        build=finalist.record.build,
        lookahead=score.lookahead,
        tar_estimated=score.tokens_per_round,
        tar_measured=tokens_per_round(tally),
        tokens_per_s_predicted=score.tokens_per_s,
        tokens_per_s_measured=speed(tally),
        speedup_predicted=score.speedup,
        speedup_measured=speedup(tally, alone),
        rounds=pooled.rounds,
        burst_s=pooled.burst_s / pooled.rounds,
        verify_s=pooled.verify_s / pooled.rounds,
        overhead_s=pooled.overhead_s / pooled.rounds,
        divergences=tally.near_ties,
        mismatches=tally.mismatches,
        drafting=finalist.drafting,
    )
