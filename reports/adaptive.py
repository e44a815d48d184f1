"""What choosing the lookahead round by round came to: as data, and as the report's section."""

from collections.abc import Iterable

from autotune.adaptive_results import AdaptiveOutcome
from autotune.reports.cells import figure, inline, table
from autotune.reports.figure_summaries import figure_summary
from autotune.reports.summary import AdaptiveSummary


def adaptive_summary(outcome: AdaptiveOutcome | None) -> AdaptiveSummary | None:
    """The outcome as `summary.json` holds it."""
    if outcome is None:
        return None
    estimated = outcome.estimated
    return AdaptiveSummary(
        kept=outcome.kept,
        detail=outcome.detail,
        estimated_gain=figure_summary(estimated.gain) if estimated else None,
        estimated_lookahead=estimated.lookahead if estimated else None,
        tokens_per_round=estimated.tokens_per_round if estimated else None,
        drafted_per_round=estimated.drafted_per_round if estimated else None,
        lookahead=outcome.lookahead,
        measured_gain=figure_summary(outcome.measured),
        fixed_tokens_per_s=figure_summary(outcome.fixed_tokens_per_s),
        tokens_per_s=figure_summary(outcome.tokens_per_s),
    )


def adaptive(summary: AdaptiveSummary | None) -> Iterable[str]:
    """The section *Adaptive k*; nothing where it was not asked for."""
    if summary is None:
        return
    yield "## Adaptive k"
    yield (
        "The winner drafts on in every round only while its own confidence makes another token worth its time. "
        f"{'Kept' if summary.kept else 'Not kept'}: {inline(summary.detail)}. All other figures here are those of the "
        "fixed k."
    )
    if summary.estimated_gain is None:
        return
    rows = [
        [
            "estimated along the traces",
            str(summary.estimated_lookahead),
            figure(summary.estimated_gain, 3),
            "",
            "",
        ]
    ]
    if summary.measured_gain is not None:
        speeds = [figure(each, 0) for each in (summary.fixed_tokens_per_s, summary.tokens_per_s)]
        rows.append(["decoded in turn", str(summary.lookahead), figure(summary.measured_gain, 3), *speeds])
    yield table(["", "fixed k", "adaptive over fixed", "tokens/s fixed", "tokens/s adaptive"], rows)
