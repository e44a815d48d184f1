"""The objective that a configuration asks for, checked against the categories of its workload."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path

from autotune.config import TuneConfig
from autotune.errors import BadRequest
from autotune.objective import MEAN, WORST, Objective, ObjectiveKind, weighted
from autotune.recording import CategoryCounts, WorkloadTraces, count_categories
from autotune.results import RunKind

_FEWEST_PROMPTS = 3
"""Of a category, so that each of the three splits can have one."""


def find_objective(config: TuneConfig, kind: RunKind, recorded: Path | None) -> Objective:
    """The run's objective; BadRequest where it needs categories that the workload's splits do not have.

    recorded: the user's file of traces, if there is one.
    """
    asked = ObjectiveKind(config.objective)
    if asked is not ObjectiveKind.WEIGHTED and config.category_weights is not None:
        raise BadRequest("--category-weights are those of --objective weighted: add it, or leave them out")
    if asked is ObjectiveKind.MEAN:
        return MEAN
    if kind is RunKind.PLAN:
        raise BadRequest(
            f"--objective {asked.value}: a plan has none of the target's text, so it has no categories; record traces "
            "of it (see `autotune traces`) and give them with --traces, or leave --objective out"
        )
    counts = count_categories(config.prompts, recorded, config.seed)
    there = f"the workload has {_listed(counts.everything)}"
    if asked is ObjectiveKind.WORST:
        _check_splits("--objective worst", counts.everything, counts, kind)
        return WORST
    if config.category_weights is None:
        raise BadRequest(f"--objective weighted needs --category-weights, such as code=2,chat=1; {there}")
    return _weighted(config.category_weights, counts, kind, there)


def category_notes(objective: Objective, traces: WorkloadTraces) -> list[str]:
    """What is worth knowing of the categories of a run's text, a sentence each."""
    estimated, decoded = {trace.category for trace in traces.estimate.items}, set(traces.validate_categories)
    everything = estimated | decoded | {trace.category for trace in traces.train.items}
    notes = []
    if objective.kind is ObjectiveKind.WEIGHTED:
        unnamed = everything - {name for name, _ in objective.weights}
        if unnamed:
            notes.append(f"categories without a weight count for nothing: {', '.join(sorted(unnamed))}")
    for there, purpose in ((estimated, "to estimate TAR on"), (decoded, "to decode in the validation")):
        lacking = everything - there
        if lacking:
            notes.append(f"no text is left {purpose} of the categories {', '.join(sorted(lacking))}")
    return notes


def _weighted(weights: Mapping[str, float], counts: CategoryCounts, kind: RunKind, there: str) -> Objective:
    """The weighted mean of these weights, which must be finite, not negative, not all zero, and of known categories."""
    unknown = sorted(weights.keys() - counts.everything.keys())
    if unknown:
        raise BadRequest(f"--category-weights: there is no category {unknown[0]!r}; {there}")
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise BadRequest(f"--category-weights: {name}={weight:g} is no weight, which must be 0 or more; {there}")
    named = [name for name, weight in weights.items() if weight > 0]
    if not named or not math.isfinite(sum(weights.values())):
        raise BadRequest(f"--category-weights: they must add up to a finite number above 0; {there}")
    _check_splits("--category-weights", named, counts, kind)
    return weighted(weights)


def _check_splits(flag: str, needed: Collection[str], counts: CategoryCounts, kind: RunKind) -> None:
    """BadRequest where a category that decides has no text to estimate on, or none to decode in a whole run."""
    splits = {"to estimate TAR on": counts.estimate}
    if kind is RunKind.WHOLE:
        splits["to decode in the validation"] = counts.validate
    for purpose, split in splits.items():
        for name in sorted(needed):
            if not split[name]:
                raise BadRequest(
                    f"{flag}: no prompt of the category {name!r} is left {purpose}; give {_FEWEST_PROMPTS} or more of "
                    f"it, of several sources and not for training alone; the workload has {_listed(counts.everything)}"
                )


def _listed(counts: Mapping[str, int]) -> str:
    """Categories with how many texts they have."""
    return ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))
