"""What a report says of the workload's categories, and of the objective over them; nothing where there is just one."""

from collections.abc import Iterable, Mapping, Sequence

from autotune.category_results import CategoryOutcome
from autotune.objective import Objective, ObjectiveKind
from autotune.reports.cells import error, inline, number, speed, table, times
from autotune.reports.figure_summaries import figure_summary, speed_summary, tar_summary
from autotune.reports.summary import (
    CategorySummary,
    DraftSummary,
    ObjectiveSummary,
    RunSummary,
)

_FEW = 5
"""Texts of a category below which their spread says little."""

_WHICH = {
    ObjectiveKind.MEAN: "",
    ObjectiveKind.WORST: " in its worst category",
    ObjectiveKind.WEIGHTED: " by the weighted mean of categories",
}
_ROWS = {
    ObjectiveKind.MEAN: "all text (objective)",
    ObjectiveKind.WORST: "worst (objective)",
    ObjectiveKind.WEIGHTED: "weighted mean (objective)",
}
_RULES = {
    ObjectiveKind.MEAN: "",
    ObjectiveKind.WORST: (
        " The run maximised the worst category: the draft whose smallest measured speed-up of any category is the "
        "largest ships, and only if it is above 1, that is, if no category decodes slower than with the target alone."
    ),
    ObjectiveKind.WEIGHTED: (
        " The run maximised the weighted mean: the draft with the largest measured speed-up by it ships, if it is "
        "above 1."
    ),
}


def which(objective: Objective) -> str:
    """What is said behind a speed-up that is not that of all text."""
    return _WHICH[objective.kind]


def objective_summary(objective: Objective) -> ObjectiveSummary:
    """The objective as `summary.json` holds it."""
    return ObjectiveSummary(objective.kind.value, dict(objective.weights))


def category_summaries(outcomes: Sequence[CategoryOutcome]) -> tuple[CategorySummary, ...]:
    """A draft's figures in every category."""
    return tuple(_category(outcome) for outcome in outcomes)


def by_category(summary: RunSummary) -> Iterable[str]:
    """The section *By category*: of the draft that is advised, or of the fastest that was decoded."""
    draft = _shown(summary)
    if draft is None:
        return
    yield "## By category"
    yield (
        f"{inline(draft.name)} with k = {draft.lookahead} on the text of each category. **Best k** is the lookahead "
        "with which this draft would be fastest there, by its estimated tokens per round and its measured latencies "
        "(0: the target alone is); the artifact holds one k for all, and lists these as `lookahead_by_category`."
        + _RULES[ObjectiveKind(summary.objective.kind)]
    )
    few = [each.category for each in draft.categories if 0 < each.traces < _FEW or 0 < each.prompts < _FEW]
    if few:
        yield (
            f"Of {inline(', '.join(few))} there are fewer than {_FEW} texts to estimate on or to decode. Intervals "
            "come from the spread among texts, so with so few they are too narrow."
        )
    headers = ["category", "traces", "TAR estimated"]
    decoded = any(each.prompts for each in draft.categories)
    if decoded:
        headers += ["decoded", "TAR measured", "error", "tokens/s measured", "speed-up measured"]
    headers += ["speed-up predicted", "best k", "speed-up there, predicted"]
    rows = [_row(each, decoded) for each in draft.categories]
    yield table(headers, [*rows, _objective_row(draft, summary.objective, decoded)])


def objective_definition(summary: RunSummary) -> str:
    """What the figures mean where they are not those of all text together."""
    objective = summary.objective
    match ObjectiveKind(objective.kind):
        case ObjectiveKind.MEAN:
            return ""
        case ObjectiveKind.WORST:
            return (
                "\n* **Objective, worst category**: unless a category is named, a draft's tokens per round and "
                "tokens/s are those of the category in which they are lowest, not pooled over all prompts, and its "
                "speed-up is the smallest of any category. The target alone's tokens/s are those of its own slowest "
                "category."
            )
        case ObjectiveKind.WEIGHTED:
            return (
                "\n* **Objective, weighted mean**: unless a category is named, figures are of traffic whose tokens are "
                f"{_shares(objective.weights)}: tokens per round are 1 / Σ (share / TAR of the category), not pooled "
                "over all prompts; tokens/s and speed-ups likewise."
            )


def objective_rows(summary: RunSummary) -> list[list[str]]:
    """The row on the objective in the table *The run*."""
    match ObjectiveKind(summary.objective.kind):
        case ObjectiveKind.MEAN:
            return []
        case ObjectiveKind.WORST:
            return [["objective", "the worst category"]]
        case ObjectiveKind.WEIGHTED:
            return [["objective", f"the weighted mean: {_shares(summary.objective.weights)}"]]


def _shares(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{share:.0%} {inline(name)}" for name, share in weights.items())


def _shown(summary: RunSummary) -> DraftSummary | None:
    """The draft whose categories are shown; None if there is none that has several."""
    drafts = [draft for draft in (summary.best, *summary.validated) if draft.categories]
    if not drafts or drafts[0] is summary.best:
        return drafts[0] if drafts else None
    return max(drafts, key=lambda draft: (not draft.mismatches, draft.speedup.measured or 0.0))


def _row(each: CategorySummary, decoded: bool) -> list[str]:
    measured = [
        str(each.prompts),
        number(each.tar.measured, each.tar.measured_interval, 2),
        error(each.tar.estimated, each.tar.measured),
        speed(each.tokens_per_s.value, each.tokens_per_s.interval) if each.tokens_per_s else "–",
        times(each.speedup.measured, each.speedup.measured_interval),
    ]
    best = each.best_speedup
    return [
        each.category,
        str(each.traces),
        number(each.tar.estimated, each.tar.estimated_interval, 2),
        *(measured if decoded else []),
        times(each.speedup.predicted, each.speedup.predicted_interval),
        "–" if each.best_lookahead is None else str(each.best_lookahead),
        "–" if best is None else times(best.value, best.interval),
    ]


def _objective_row(draft: DraftSummary, objective: ObjectiveSummary, decoded: bool) -> list[str]:
    """The draft's figures by the objective, as in the other tables, and how many texts count in it."""
    counted = [each for each in draft.categories if not objective.weights or each.category in objective.weights]
    measured = [
        str(sum(each.prompts for each in counted)),
        number(draft.tar.measured, draft.tar.measured_interval, 2),
        error(draft.tar.estimated, draft.tar.measured),
        speed(draft.tokens_per_s.measured, draft.tokens_per_s.measured_interval),
        times(draft.speedup.measured, draft.speedup.measured_interval),
    ]
    return [
        _ROWS[ObjectiveKind(objective.kind)],
        str(sum(each.traces for each in counted)),
        number(draft.tar.estimated, draft.tar.estimated_interval, 2),
        *(measured if decoded else []),
        times(draft.speedup.predicted, draft.speedup.predicted_interval),
        str(draft.lookahead),
        "",
    ]


def _category(outcome: CategoryOutcome) -> CategorySummary:
    return CategorySummary(
        category=outcome.category,
        traces=outcome.traces,
        prompts=outcome.prompts,
        tar=tar_summary(outcome.tar_estimated, outcome.tar_measured),
        tokens_per_s=figure_summary(outcome.tokens_per_s_measured),
        speedup=speed_summary(outcome.speedup_predicted, outcome.speedup_measured),
        best_lookahead=outcome.best_lookahead,
        best_speedup=figure_summary(outcome.best_speedup),
    )
