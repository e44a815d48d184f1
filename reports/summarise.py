"""What a run came to: from the tuner's facts to the report's content, the verdict in one sentence included."""

from dataclasses import replace

from autotune.candidate import Build, Drafting, DraftShape, Precision
from autotune.reports.adaptive import adaptive_summary
from autotune.reports.categories import category_summaries, objective_summary
from autotune.reports.facts import RunFacts
from autotune.reports.figure_summaries import (
    FigureSummary,
    SpeedSummary,
    TarSummary,
    figure_summary,
    interval,
    speed_summary,
    tar_summary,
)
from autotune.reports.model_free import lookup_as_draft, lookup_first_summary, lookup_summaries, with_lookup_first
from autotune.reports.refined import refinement_summary
from autotune.reports.summary import (
    SCHEMA_VERSION,
    BaselineSummary,
    BatchSummary,
    CategorySummary,
    DraftSummary,
    FailureSummary,
    ForecastSummary,
    FrontSummary,
    RoundSummary,
    RunSummary,
    ScreenedSummary,
    ShapeSummary,
    TuningSummary,
    Verdict,
)
from autotune.reports.verdict import predicted_best, sentence, verdict_of
from autotune.results import (
    Forecast,
    KernelTuning,
    Measured,
    Rejected,
    Score,
    Screened,
    TrialRecord,
    TrialState,
    Validated,
)
from autotune.score import needed_to_match, score_target_alone, weakest

_STDERR_LINES = 20


def summarise(facts: RunFacts) -> RunSummary:
    """The report's content of a run."""
    measured = [record for record in facts.records if record.state is TrialState.MEASURED]
    ruled_out = sum(record.ruled_out for record in facts.records)
    screened = tuple(
        _screened(record, record.outcome, facts.latency.step_s)
        for record in facts.records
        if isinstance(record.outcome, Screened)
    )
    known = [each for record in measured if (each := _known_date(record)) is not None]
    verdict = verdict_of(facts)
    return RunSummary(
        schema_version=SCHEMA_VERSION,
        target=facts.target,
        target_precision=facts.target_precision.value,
        source=facts.source,
        device=facts.device,
        verdict=verdict,
        sentence=sentence(facts),
        baseline=BaselineSummary(
            facts.baseline.value,
            facts.baseline.evidence.value,
            interval(facts.baseline),
            facts.latency.step_s,
            facts.latency.verify.evidence.value,
            facts.latency.verify.error_bar(1),
            facts.latency_source,
        ),
        best=_best(facts, verdict),
        front=tuple(_front(facts, record, score) for record, score in facts.front),
        validated=tuple(_validated(facts, draft) for draft in facts.validated),
        failures=tuple(_failure(record) for record in facts.records if record.state is TrialState.REJECTED),
        screened_builds=screened,
        shapes_evaluated=len({record.build.shape for record in measured}),
        trials=len(facts.records),
        screened=len(screened),
        failed=len(facts.records) - len(measured) - len(screened) - ruled_out,
        ruled_out=ruled_out,
        known=len(known),
        known_since=min([*known, *([facts.latency.date] if facts.latency.date else [])], default=None),
        wall_s=facts.wall_s,
        overhead_s=facts.latency.overhead_s,
        looping_share=facts.looping_share,
        interrupted=facts.interrupted,
        seed=facts.seed,
        command=tuple(facts.command),
        versions=dict(facts.versions),
        kernel_tuning=_tuning(facts.kernel_tuning) if facts.kernel_tuning else None,
        kind=facts.kind,
        banner=tuple(facts.banner),
        context_tokens=facts.context_tokens,
        threads=facts.measuring.threads if facts.measuring else None,
        measured_context_tokens=facts.measuring.context_tokens if facts.measuring else None,
        target_kv_bytes=_kv_bytes(facts, facts.target_shape, facts.target_precision),
        published=tuple(facts.published),
        batches=tuple(
            BatchSummary(
                entry.batch,
                entry.lookahead,
                entry.largest_lookahead,
                figure_summary(entry.tokens_per_s),
                figure_summary(entry.speedup),
                memory.target_kv_bytes,
                memory.draft_kv_bytes,
                memory.logits_bytes,
            )
            for entry, memory in facts.batches
        ),
        objective=objective_summary(facts.objective),
        refinement=refinement_summary(facts.refinement),
        adaptive=adaptive_summary(facts.adaptive),
        without_model=lookup_summaries(facts.lookups),
        lookup_first=lookup_first_summary(facts.lookup_first),
    )


def _best(facts: RunFacts, verdict: Verdict) -> DraftSummary:
    if facts.chosen and facts.chosen_first:
        return with_lookup_first(_validated(facts, facts.chosen), facts.chosen_first)
    if facts.chosen:
        return _validated(facts, facts.chosen)
    if facts.chosen_lookup:
        return lookup_as_draft(facts.chosen_lookup)
    best = predicted_best(facts)
    if verdict is Verdict.NOT_VALIDATED and best:
        record, score = best
        return _draft(
            record.build,
            score.lookahead,
            tar_summary(score.tokens_per_round, None),
            speed_summary(score.tokens_per_s),
            speed_summary(score.speedup),
            drafting=_drafting(record),
            break_even=figure_summary(score.break_even),
            categories=_categories(facts, record.build),
        )
    decoded = facts.baseline.value if facts.validated else None
    return DraftSummary(
        name="the target alone",
        shape=None,
        lookahead=0,
        backend=None,
        precision=None,
        parameters=0,
        tar=TarSummary(1.0, 1.0),
        tokens_per_s=replace(speed_summary(score_target_alone(facts.latency).tokens_per_s), measured=decoded),
        speedup=SpeedSummary(1.0, 1.0),
    )


def _categories(facts: RunFacts, build: Build) -> tuple[CategorySummary, ...]:
    return category_summaries(facts.by_category.get(build.key(), ()))


def _validated(facts: RunFacts, draft: Validated) -> DraftSummary:
    return _draft(
        draft.build,
        draft.lookahead,
        tar_summary(draft.tar_estimated, draft.tar_measured, draft.tar_proxy),
        speed_summary(draft.tokens_per_s_predicted, draft.tokens_per_s_measured),
        speed_summary(draft.speedup_predicted, draft.speedup_measured),
        RoundSummary(draft.rounds, draft.burst_s, draft.verify_s, draft.overhead_s, draft.overhead_s / draft.round_s),
        draft.divergences,
        draft.mismatches,
        draft.drafting,
        categories=_categories(facts, draft.build),
    )


def _draft(
    build: Build,
    lookahead: int,
    tar: TarSummary,
    tokens_per_s: SpeedSummary,
    speedup: SpeedSummary,
    times: RoundSummary | None = None,
    divergences: int | None = None,
    mismatches: int | None = None,
    drafting: Drafting | None = None,
    break_even: FigureSummary | None = None,
    categories: tuple[CategorySummary, ...] = (),
) -> DraftSummary:
    return DraftSummary(
        name=str(build.shape),
        shape=_shape(build.shape),
        lookahead=lookahead,
        backend=build.backend,
        precision=build.precision.value,
        parameters=build.shape.parameters,
        tar=tar,
        tokens_per_s=tokens_per_s,
        speedup=speedup,
        round=times,
        divergences=divergences,
        mismatches=mismatches,
        drafting=drafting,
        break_even=break_even,
        categories=categories,
    )


def _front(facts: RunFacts, record: TrialRecord, score: Score) -> FrontSummary:
    rival = _best_of_others(facts, record.build.shape)
    return FrontSummary(
        name=str(record.build.shape),
        trial=record.number,
        shape=_shape(record.build.shape),
        lookahead=score.lookahead,
        backend=record.build.backend,
        precision=record.build.precision.value,
        parameters=record.parameters,
        tar=figure_summary(score.tokens_per_round),
        round_s=figure_summary(score.round_s),
        tokens_per_s=figure_summary(score.tokens_per_s),
        speedup=figure_summary(score.speedup),
        drafting=_drafting(record),
        break_even=figure_summary(score.break_even),
        to_match_best=figure_summary(needed_to_match(score, rival)) if rival else None,
        stand_in=facts.stand_in.get(str(record.build.shape)),
        kv_bytes=_kv_bytes(facts, record.build.shape, record.build.precision),
    )


def _best_of_others(facts: RunFacts, shape: DraftShape) -> Score | None:
    """The fastest score of a draft of another shape."""
    others = (score for record in facts.records if record.build.shape != shape for score in record.scores)
    return max(others, key=lambda score: score.tokens_per_s.value, default=None)


def _kv_bytes(facts: RunFacts, shape: DraftShape | None, precision: Precision) -> int | None:
    """Bytes of a model's cache at the run's context."""
    if shape is None or facts.context_tokens is None:
        return None
    return shape.kv_bytes_per_token * facts.context_tokens * precision.other_bytes // 4


def _drafting(record: TrialRecord) -> Drafting | None:
    """How a measured build drafts."""
    return record.outcome.burst.drafting if isinstance(record.outcome, Measured) else None


def _failure(record: TrialRecord) -> FailureSummary:
    assert isinstance(record.outcome, Rejected)
    stderr = "\n".join(record.outcome.stderr.splitlines()[-_STDERR_LINES:])
    return FailureSummary(record.number, str(record.build), record.outcome.reason.value, record.outcome.detail, stderr)


def _screened(record: TrialRecord, screened: Screened, step_s: float) -> ScreenedSummary:
    best = screened.best()
    speedup = best.tokens_per_round.value * step_s / best.round_s.value
    evidence = weakest(best.tokens_per_round.evidence, best.round_s.evidence)
    return ScreenedSummary(
        trial=record.number,
        name=str(record.build.shape),
        backend=record.build.backend,
        precision=record.build.precision.value,
        parameters=record.parameters,
        margin=screened.margin,
        builds=screened.builds,
        gain=screened.gain,
        best_speedup=FigureSummary(speedup, evidence.value, (speedup, best.most_tokens_per_s * step_s)),
        best_lookahead=best.lookahead,
        forecasts=tuple(_forecast(forecast) for forecast in screened.forecasts),
    )


def _forecast(forecast: Forecast) -> ForecastSummary:
    rival = forecast.rival
    return ForecastSummary(
        lookahead=forecast.lookahead,
        tar=figure_summary(forecast.tokens_per_round),
        burst_s=figure_summary(forecast.burst_s),
        round_s=figure_summary(forecast.round_s),
        rival_trial=rival.trial if rival else None,
        rival_lookahead=rival.lookahead if rival else None,
    )


def _known_date(record: TrialRecord) -> str | None:
    """When its latencies were measured, if an earlier run did that."""
    return record.outcome.latency_date if isinstance(record.outcome, Measured) else None


def _shape(shape: DraftShape) -> ShapeSummary:
    return ShapeSummary(
        shape.layers, shape.heads, shape.kv_heads, shape.head_dim, shape.hidden, shape.ffn, shape.draft_vocab
    )


def _tuning(tuning: KernelTuning) -> TuningSummary:
    return TuningSummary(
        kept=tuning.kept,
        detail=tuning.detail,
        tried=tuning.tried,
        seconds=tuning.seconds,
        speedup=figure_summary(tuning.speedup),
        schedules=dict(tuning.schedules),
    )
