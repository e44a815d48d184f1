"""What the search scores builds on, and what everything after it does."""

from types import SimpleNamespace
from typing import Any, cast

from autotune.acceptance_source import ScoredOnTraces
from autotune.trace_levels import scoring_levels
from autotune.workbench import Workbench
from tests.test_evaluate import evaluator as evaluator
from tests.test_trace_levels import prompts, traces_of


def test_the_search_scores_on_the_first_level_and_finalists_on_all_traces(evaluator: Any) -> None:
    scored = ScoredOnTraces(traces_of({"code": 100, "chat": 60}), 4, 1)
    levels = scoring_levels(scored, seed=0)
    side, request = cast(Any, SimpleNamespace()), cast(Any, SimpleNamespace())
    bench = Workbench(request, side, evaluator, None, levels=levels)
    searching = bench.searching.acceptances
    assert isinstance(searching, ScoredOnTraces)
    assert len(prompts(searching.traces)) == 40
    assert bench.searching.target == evaluator.target
    assert bench.evaluator is evaluator
    assert Workbench(request, side, evaluator, None).searching is evaluator
