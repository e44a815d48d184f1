"""Validation: the finalists really decode held-out prompts with the target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from autotune.by_category import outcomes_by_category
from autotune.category_results import CategoryOutcome
from autotune.choice import Choice, choose
from autotune.contest import ContestRequest, Tally, hold_contest
from autotune.devices import device_lock
from autotune.errors import AutotuneError
from autotune.evaluate import Evaluator
from autotune.finalists import Finalist, finish_drafts, make_finalists
from autotune.lookup_first import Drafted, estimate_lookup_first
from autotune.lookup_results import Decoded, LookupFirstOutcome, LookupOutcome
from autotune.model_free import score_lookups
from autotune.objective import Objective
from autotune.progress import Observer
from autotune.proxy.score_traces import acceptance_of
from autotune.quantization import dequantised
from autotune.results import Figure, Rejected, TargetLatency, TrialRecord, Validated
from autotune.runtime.pairing import Pairing
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
    """Tokens/s of the target alone, by the run's objective."""
    entries: tuple[tuple[Finalist, Validated], ...]
    by_category: Mapping[str, tuple[CategoryOutcome, ...]] = field(default_factory=dict)
    """By the key of a build: its figures in every category, where there are several."""
    lookups: tuple[LookupOutcome, ...] = ()
    """Drafters without a model, the fastest by prediction first; it decoded too, if it was predicted to pay."""
    lookup_first: LookupFirstOutcome | None = None
    """The finalist predicted fastest, asked only where looking up finds nothing; it decoded, if that was to gain."""

    @property
    def choice(self) -> Choice:
        """What ships."""
        return choose([entry for _, entry in self.entries], self.lookups, self.lookup_first)

    @property
    def shipping(self) -> tuple[Finalist, Validated] | None:
        """The finalist that ships, by itself or with a lookup before it; None if none does."""
        chosen = self.choice.draft
        return next((entry for entry in self.entries if entry[1] is chosen), None)


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
    lookups = estimate_lookups(bench, latency)
    decoding = [each for each in lookups[:1] if each.best.speedup.value > 1.0]
    both = _lookup_first(bench, evaluator, finalists, lookups, latency)
    request = _contest(bench, finalists, decoding, both)
    # Twenty times what the target alone would take is far beyond any honest round.
    expected_s = (
        latency.step_s * request.max_new_tokens * len(request.prompts) * request.repeats * (len(request.contenders) + 1)
    )
    limits = replace(limits, time_s=limits.time_s + 20 * expected_s)
    result = hold_contest(request, limits, device_lock(bench.request.device.kind))
    if isinstance(result, Rejected):
        raise AutotuneError(f"the finalists could not be validated: {result.reason.value}, {result.detail}")
    alone, *tallies = result.tallies
    if both is not None:
        both = replace(both, decoded=_decoded(tallies.pop(), alone, bench))
    objective, categories = bench.request.objective, bench.own_text.traces.validate_categories
    entries, by_category = [], {}
    for finalist, tally in zip(finalists, tallies[: len(finalists)], strict=True):
        entries.append((finalist, _judge(finalist, alone, tally, objective, categories)))
        by_category[finalist.record.build.key()] = outcomes_by_category(evaluator, finalist, categories, tally, alone)
    for place, tally in enumerate(tallies[len(finalists) :]):
        lookups[place] = replace(lookups[place], decoded=_decoded(tally, alone, bench))
    return Validation(speed(alone, objective, categories), tuple(entries), by_category, tuple(lookups), both)


def estimate_lookups(bench: Workbench, latency: TargetLatency) -> list[LookupOutcome]:
    """What drafting without a model would come to on the target's text, unless that was not to be asked."""
    request = bench.request
    if not request.config.model_free:
        return []
    traces = bench.own_text.traces.estimate.items
    return score_lookups(traces, request.target.shape.vocab, latency, request.space.max_lookahead, request.objective)


def _lookup_first(
    bench: Workbench,
    evaluator: Evaluator,
    finalists: Sequence[Finalist],
    lookups: Sequence[LookupOutcome],
    latency: TargetLatency,
) -> LookupFirstOutcome | None:
    """The finalist predicted fastest with a lookup before it; None if that is not predicted to gain."""
    if not lookups:
        return None
    finalist = max(finalists, key=lambda each: each.score.tokens_per_s.value)
    if not finalist.score.lookahead:
        return None
    build, traces = finalist.record.build, bench.own_text.traces.estimate
    weights = dequantised(bench.own_text.estimator.vocabulary.trim(finalist.whole, build.shape), build.precision)
    draft = Drafted(build, finalist.burst, acceptance_of(weights, traces, threads=bench.threads))
    both = estimate_lookup_first(
        draft,
        traces.items,
        bench.request.target.shape.vocab,
        latency,
        bench.request.space.max_lookahead,
        finalist.score.lookahead,
        bench.request.objective,
    )
    rivals = [finalist.score, lookups[0].best]
    return both if both.best.speedup.value > max(score.speedup.value for score in rivals) else None


def _tell_drift(before: TargetLatency, latency: TargetLatency, observer: Observer) -> None:
    """Say so if the machine is not as fast as when the database's latencies, which the search used, were measured."""
    ratio = latency.step_s / before.step_s
    if before.date is not None and abs(ratio - 1) > _DRIFT:
        observer.note(
            f"a step of the target alone takes {ratio:.2f} times as long as the tuning database knew from "
            f"{before.date}: builds measured since then compare unevenly (--no-database measures all anew)"
        )


def _contest(
    bench: Workbench,
    finalists: Sequence[Finalist],
    lookups: Sequence[LookupOutcome],
    both: LookupFirstOutcome | None,
) -> ContestRequest:
    """The finalists, then the lookups, then a finalist with a lookup before it."""
    config = bench.request.config
    drafts = [Pairing(str(finalist.program), finalist.score.lookahead) for finalist in finalists]
    without = [Pairing(None, each.lookahead, lookup=each.lookup) for each in lookups]
    together = [
        Pairing(str(each.program), both.best.lookahead, lookup=both.lookup, lookup_lookahead=both.lookup_lookahead)
        for each in finalists
        if both is not None and each.record.build == both.build
    ]
    return ContestRequest(
        target=str(bench.program),
        contenders=(*drafts, *without, *together),
        prompts=tuple(tuple(prompt.tolist()) for prompt in bench.own_text.traces.validate),
        max_new_tokens=config.max_new_tokens,
        sampling=config.sampling,
        eos_ids=bench.request.whole_target.eos_ids,
        seed=config.seed,
        threads=bench.threads,
        repeats=REPEATS,
    )


def _decoded(tally: Tally, alone: Tally, bench: Workbench) -> Decoded:
    objective, categories = bench.request.objective, bench.own_text.traces.validate_categories
    return Decoded(
        tar=tokens_per_round(tally, objective, categories),
        tokens_per_s=speed(tally, objective, categories),
        speedup=speedup(tally, alone, objective, categories),
        divergences=tally.near_ties,
        mismatches=tally.mismatches,
    )


def _judge(
    finalist: Finalist, alone: Tally, tally: Tally, objective: Objective, categories: Sequence[str]
) -> Validated:
    """What was predicted of a finalist beside what it did, by the objective; categories: `[prompts]`."""
    pooled, score = tally.pooled(), finalist.score
    searched = {each.lookahead: each.tokens_per_round for each in finalist.record.scores}
    return Validated(
        build=finalist.record.build,
        lookahead=score.lookahead,
        tar_estimated=score.tokens_per_round,
        tar_measured=tokens_per_round(tally, objective, categories),
        tokens_per_s_predicted=score.tokens_per_s,
        tokens_per_s_measured=speed(tally, objective, categories),
        speedup_predicted=score.speedup,
        speedup_measured=speedup(tally, alone, objective, categories),
        rounds=pooled.rounds,
        burst_s=pooled.burst_s / pooled.rounds,
        verify_s=pooled.verify_s / pooled.rounds,
        overhead_s=pooled.overhead_s / pooled.rounds,
        divergences=tally.near_ties,
        mismatches=tally.mismatches,
        drafting=finalist.drafting,
        tar_proxy=searched.get(score.lookahead),
    )
