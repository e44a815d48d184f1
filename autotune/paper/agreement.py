"""Experiment (f): does a draft that models language better draft better too?  Over pruned drafts of the demo family."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from autotune.acceptance import count_acceptance
from autotune.paper.published import SECOND_HAND
from autotune.paper.statistics import pearson, spearman
from autotune.proxy.base import Estimator
from autotune.reports.experiments import Chart, Experiment, Series, Table
from autotune.results import Evidence
from autotune.search_space.space import SearchSpace
from autotune.shape import DraftShape
from autotune.traces import Traces

LOOKAHEAD = 4
Value = TypeVar("Value")


@dataclass(frozen=True)
class Draft:
    """A pruned draft's two qualities."""

    shape: DraftShape
    accuracy: float
    """Share of the next tokens of human text that it gets right."""
    tokens_per_round: float


def spread_shapes(space: SearchSpace) -> list[DraftShape]:
    """Shapes at the ends and in the middle of every axis, with the whole vocabulary."""
    layers, ffn = (_ends(axis.values) for axis in (space.layers, space.ffn))
    shapes = []
    for depth, (heads, kv_heads), width in product(layers, _ends(space.attention), ffn):
        shapes.append(replace(space.source, layers=depth, heads=heads, kv_heads=kv_heads, ffn=width))
    return shapes


def score_drafts(
    shapes: Sequence[DraftShape],
    estimator: Estimator,
    traces: Traces,
    texts: Sequence[NDArray[np.int32]],
    on_progress: Callable[[float], None],
) -> list[Draft]:
    """Both qualities of every shape: on the texts `[P]` themselves, and on the target's continuations of such texts."""
    from autotune.proxy.score_text import next_token_accuracy  # torch: loaded only when it is needed
    from autotune.proxy.score_traces import acceptance_of

    drafts = []
    for shape in shapes:
        weights = estimator.weights(shape)
        acceptance = count_acceptance(acceptance_of(weights, traces), LOOKAHEAD)
        accuracy = next_token_accuracy(weights, texts)
        drafts.append(Draft(shape, accuracy, acceptance.tokens_per_round(LOOKAHEAD)))
        on_progress(len(drafts) / len(shapes))
    return drafts


def agreement(drafts: Sequence[Draft], looping_share: float) -> Experiment:
    """(f): TAR against language-modelling accuracy."""
    accuracy = [draft.accuracy for draft in drafts]
    tokens = [draft.tokens_per_round for draft in drafts]
    linear, by_rank = pearson(accuracy, tokens), spearman(accuracy, tokens)
    rows = tuple((str(d.shape), d.shape.parameters / 1e6, d.accuracy, d.tokens_per_round) for d in drafts)
    by_depth = _by_depth(drafts)
    return Experiment(
        key="f",
        title="Acceptance against language-modelling accuracy",
        claim="A draft's TAR correlates little with its accuracy on language tasks.",
        claim_source=SECOND_HAND,
        finding=f"Over {len(drafts)} pruned drafts of one family, TAR({LOOKAHEAD}) and next-token accuracy correlate "
        f"with r = {linear:.2f} (rank correlation {by_rank:.2f}): "
        + (
            "within a family that was trained alike, and on text of the target's own kind, accuracy does tell which "
            "draft is accepted more. The paper compares models of different families by their marks in tasks."
            if by_rank > 0.7
            else "accuracy tells little about acceptance, as in the paper."
        ),
        evidence=(Evidence.ESTIMATED,),
        tables=(
            Table(
                ("draft", "parameters, M", "next-token accuracy", f"TAR({LOOKAHEAD})"),
                rows,
                {"parameters, M": ".2f", "next-token accuracy": ".1%", f"TAR({LOOKAHEAD})": ".2f"},
            ),
        ),
        charts=(
            Chart(
                "Pruned drafts of the demo family",
                "next-token accuracy",
                f"TAR({LOOKAHEAD})",
                tuple(
                    Series(f"{layers} layers", tuple(x), tuple(y), joined=False) for layers, (x, y) in by_depth.items()
                ),
            ),
        ),
        notes=(
            "The target is the embedded demo model, whose drafts all come from one elastic source; accuracy is that on "
            f"the prompts' own text. {looping_share:.0%} of the target's continuations loop, which lifts TAR.",
        ),
    )


def _by_depth(drafts: Sequence[Draft]) -> Mapping[int, tuple[list[float], list[float]]]:
    groups: dict[int, tuple[list[float], list[float]]] = {}
    for draft in drafts:
        x, y = groups.setdefault(draft.shape.layers, ([], []))
        x.append(draft.accuracy)
        y.append(draft.tokens_per_round)
    return groups


def _ends(values: Sequence[Value]) -> list[Value]:
    """The first, the middle and the last of the values, each once."""
    places = sorted({0, len(values) // 2, len(values) - 1})
    return [values[place] for place in places]
