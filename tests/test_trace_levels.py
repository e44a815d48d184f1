"""Levels of traces: each inside the next, with the categories of the whole."""

from collections import Counter
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.acceptance_source import ScoredOnTraces
from autotune.sampling import SamplingSettings
from autotune.trace_levels import FEWEST_OF_CATEGORY, FEWEST_TRACES, in_balanced_order, level_sizes, scoring_levels
from autotune.traces import Trace, Traces

COUNTS = st.dictionaries(st.sampled_from(["chat", "code", "poems", "stories"]), st.integers(1, 90), min_size=1)


def traces_of(counts: dict[str, int]) -> Traces:
    """So many traces of each category, no two alike."""
    names = [name for name, count in counts.items() for _ in range(count)]

    def tokens(count: int) -> np.ndarray:
        return np.full(count, 7, np.int32)

    items = (
        Trace(np.array([n], np.int32), tokens(1 + n % 5), np.zeros(1 + n % 5, np.float32), tokens(2 + n % 5), name)
        for n, name in enumerate(names)
    )
    return Traces(tuple(items), SamplingSettings(), "target", "tokenizer", 0)


def prompts(traces: Traces) -> list[int]:
    return [int(trace.prompt[0]) for trace in traces.items]


@given(COUNTS, st.integers(0, 3))
def test_every_beginning_has_the_categories_of_the_whole(counts: dict[str, int], seed: int) -> None:
    whole = traces_of(counts)
    ordered = in_balanced_order(whole, seed)
    assert sorted(prompts(ordered)) == prompts(whole)
    names, total = [trace.category for trace in ordered.items], sum(counts.values())
    for length in range(1, total + 1):
        seen = Counter(names[:length])
        for name, count in counts.items():
            share = count / total
            assert share * (length - len(counts)) - 1e-9 <= seen[name] <= share * length + 1 + 1e-9
    assert set(names[: len(counts)]) == set(counts)


@given(COUNTS)
def test_levels_ascend_to_all_traces_and_none_is_small(counts: dict[str, int]) -> None:
    ordered = in_balanced_order(traces_of(counts), 0)
    sizes = level_sizes(ordered)
    assert sizes == tuple(sorted(set(sizes)))
    assert sizes[-1] == len(ordered.items)
    for size in sizes[:-1]:
        assert size >= FEWEST_TRACES
        assert min(Counter(trace.category for trace in ordered.items[:size]).values()) >= FEWEST_OF_CATEGORY


@pytest.mark.parametrize(
    ("count", "sizes"), [(60, (60,)), (64, (32, 64)), (120, (60, 120)), (128, (32, 64, 128)), (300, (75, 150, 300))]
)
def test_a_quarter_a_half_and_all_where_these_are_enough(count: int, sizes: tuple[int, ...]) -> None:
    assert level_sizes(traces_of({"text": count})) == sizes


def test_a_rare_category_is_on_no_level_that_has_few_of_it() -> None:
    assert level_sizes(in_balanced_order(traces_of({"text": 300, "poems": 6}), 0)) == (306,)


def test_the_order_is_the_seeds() -> None:
    traces = traces_of({"code": 40, "chat": 60})
    assert prompts(in_balanced_order(traces, 1)) == prompts(in_balanced_order(traces, 1))
    assert prompts(in_balanced_order(traces, 1)) != prompts(in_balanced_order(traces, 2))


def test_parts_are_scored_apart_and_come_to_the_whole() -> None:
    traces = traces_of({"code": 100, "chat": 60})
    levels = scoring_levels(ScoredOnTraces(traces, 3, 1), seed=0)
    assert levels is not None
    parts = [levels.part(begin, end) for begin, end in zip((0, *levels.sizes), levels.sizes, strict=False)]
    pieces = [part.traces for part in parts if isinstance(part, ScoredOnTraces)]
    assert [len(piece.items) for piece in pieces] == [ceil(160 / 4), 40, 80]
    assert [trace for piece in pieces for trace in prompts(piece)] == prompts(in_balanced_order(traces, 0))
    assert levels.tokens[-1] == traces.tokens
    assert levels.tokens[0] == pieces[0].tokens
    assert scoring_levels(ScoredOnTraces(traces_of({"text": 40}), 3, 1), seed=0) is None
