"""A finished draft in every category of the workload: predicted at every k, measured at the one it decoded with."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from autotune.category_results import CategoryOutcome
from autotune.contest import Tally
from autotune.evaluate import Evaluator
from autotune.finalists import Finalist
from autotune.objective import only
from autotune.score import score_target_alone
from autotune.tallies import speed, speedup, tokens_per_round


def predicted_by_category(evaluator: Evaluator, finalist: Finalist) -> tuple[CategoryOutcome, ...]:
    """What the finalist is predicted to come to in each category of its estimate; empty where there is just one."""
    names = sorted(set(finalist.acceptance.categories))
    return tuple(_predicted(evaluator, finalist, name) for name in names) if len(names) > 1 else ()


def outcomes_by_category(
    evaluator: Evaluator, finalist: Finalist, categories: Sequence[str], pair: Tally, alone: Tally
) -> tuple[CategoryOutcome, ...]:
    """As `predicted_by_category`, and what was measured; categories: of the prompts that were decoded."""
    estimated = set(finalist.acceptance.categories)
    names = sorted(estimated | set(categories))
    if len(names) < 2:
        return ()
    outcomes = []
    for name in names:
        outcome = _predicted(evaluator, finalist, name) if name in estimated else CategoryOutcome(name, 0, 0)
        outcomes.append(_with_measured(outcome, categories, pair, alone))
    return tuple(outcomes)


def lookahead_by_category(outcomes: Sequence[CategoryOutcome]) -> Mapping[str, int]:
    """The best k of every category in which it is known."""
    return {each.category: each.best_lookahead for each in outcomes if each.best_lookahead is not None}


def _predicted(evaluator: Evaluator, finalist: Finalist, category: str) -> CategoryOutcome:
    here = replace(evaluator, objective=only(category))
    lookaheads = [score.lookahead for score in finalist.record.scores]
    scores = here.scores(finalist.acceptance, finalist.burst, lookaheads)
    # A round's seconds, the only limit there is on a measured draft, are the same in every category.
    shipped = next(score for score in scores if score.lookahead == finalist.score.lookahead)
    best = max([score_target_alone(evaluator.target), *scores], key=lambda score: score.speedup.value)
    return CategoryOutcome(
        category=category,
        traces=finalist.acceptance.categories.count(category),
        prompts=0,
        tar_estimated=shipped.tokens_per_round,
        speedup_predicted=shipped.speedup,
        best_lookahead=best.lookahead,
        best_speedup=best.speedup,
    )


def _with_measured(outcome: CategoryOutcome, categories: Sequence[str], pair: Tally, alone: Tally) -> CategoryOutcome:
    members = [place for place, name in enumerate(categories) if name == outcome.category]
    if not members:
        return outcome
    here, there = (Tally(tuple(tally.statistics[place] for place in members)) for tally in (pair, alone))
    return replace(
        outcome,
        prompts=len(members),
        tar_measured=tokens_per_round(here),
        tokens_per_s_measured=speed(here),
        speedup_measured=speedup(here, there),
    )
