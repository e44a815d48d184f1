"""Validation: finish the finalists, compile them, and let them really decode held-out prompts with the target."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autotune.candidate import Drafting
from autotune.contest import Contender, ContestRequest, Tally, hold_contest
from autotune.devices import device_lock
from autotune.errors import AutotuneError
from autotune.evaluate import Evaluator
from autotune.pareto import best_by_speed
from autotune.prepare import Workbench, measure_target
from autotune.progress import Observer
from autotune.results import Figure, Rejected, RejectReason, Score, TrialRecord, Validated
from autotune.tallies import speed, speedup, tokens_per_round
from autotune.weights import ModelWeights

REPEATS = 2


@dataclass(frozen=True)
class Finalist:
    """A draft as it would ship: finished weights, its program, and its refreshed prediction."""

    record: TrialRecord
    weights: ModelWeights
    program: Path
    score: Score
    drafting: Drafting | None = None
    """The faster way of drafting, as measured."""


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


def choose_finalists(front: Sequence[tuple[TrialRecord, Score]], count: int) -> list[TrialRecord]:
    """The `count` fastest builds of the front, by predicted tokens/s at their best lookahead there."""
    fastest: dict[str, TrialRecord] = {}
    for record, _ in best_by_speed(front, lambda item: item[1]):
        fastest.setdefault(record.build.key(), record)
    return list(fastest.values())[:count]


def validate(bench: Workbench, records: Sequence[TrialRecord], work: Path, observer: Observer) -> Validation:
    """The contest of the finalists made from these records.

    The latencies behind the predictions are taken anew right before the contest, so that the comparison of predicted
    and measured speed tests the model of a round and not the weather on the machine.
    """
    drafts = [_finish(bench, record, observer) for record in records]
    observer.phase("Decoding held-out prompts for real")
    settings, limits = bench.latency.verify.settings, bench.evaluator.limits.run
    latency = measure_target(bench.request, bench.program, settings, limits)
    if isinstance(latency, Rejected):
        raise AutotuneError(f"the target cannot be measured any more: {latency.reason.value}, {latency.detail}")
    evaluator = replace(bench.evaluator, target=latency)
    finalists = []
    for record, weights in zip(records, drafts, strict=True):
        finalist = _compile(evaluator, record, weights, work / f"finalist-{record.number}")
        if isinstance(finalist, Rejected):
            observer.note(f"{record.build} drops out: {finalist.reason.value}, {finalist.detail}")
        else:
            finalists.append(finalist)
    if not finalists:
        raise AutotuneError("none of the finalists could be compiled and measured again: see the notes above")
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


def _finish(bench: Workbench, record: TrialRecord, observer: Observer) -> ModelWeights:
    """The record's draft, distilled a little longer on the training traces; the better of before and after."""
    config = bench.request.config
    weights = bench.estimator.weights(record.build.shape)
    if not config.finish:
        return weights
    from autotune.proxy.finish import finish  # torch: loaded only when it is needed

    observer.phase(f"Finishing {record.build}")
    finished = finish(
        weights,
        bench.traces.train,
        config.finish,
        seed=config.seed,
        threads=bench.request.training_threads,
        on_progress=observer.progress,
    )
    observer.note(f"{record.build}: agreement with the target {finished.before:.3f} → {finished.after:.3f}")
    return finished.weights


def _compile(evaluator: Evaluator, record: TrialRecord, weights: ModelWeights, folder: Path) -> Finalist | Rejected:
    """The finished draft compiled and measured, at its best lookahead."""
    acceptance = evaluator.acceptance(record.build, weights)
    if isinstance(acceptance, Rejected):
        return acceptance
    built = evaluator.compile(record.build, weights, folder)
    if isinstance(built, Rejected):
        return built
    burst = evaluator.measure(built)
    if isinstance(burst, Rejected):
        return burst
    scores = evaluator.scores(acceptance, burst, [score.lookahead for score in record.scores])
    if not scores:
        return Rejected(RejectReason.CONSTRAINT, "over the limit of round latency at every lookahead")
    best = max(scores, key=lambda score: score.tokens_per_s.value)
    return Finalist(record, weights, Path(built.program), best, burst.drafting)


def _contest(bench: Workbench, finalists: Sequence[Finalist]) -> ContestRequest:
    config = bench.request.config
    return ContestRequest(
        target=str(bench.program),
        contenders=tuple(Contender(str(finalist.program), finalist.score.lookahead) for finalist in finalists),
        prompts=tuple(tuple(prompt.tolist()) for prompt in bench.traces.validate),
        max_new_tokens=config.max_new_tokens,
        sampling=config.sampling,
        eos_ids=bench.request.target.eos_ids,
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
