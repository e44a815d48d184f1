"""A draft's figures in every category, and which finalist wins by them."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from autotune.by_category import lookahead_by_category, outcomes_by_category, predicted_by_category
from autotune.contest import Tally
from autotune.evaluate import Evaluator
from autotune.finalists import Finalist
from autotune.objective import MEAN, WORST, Objective
from autotune.results import Acceptance
from autotune.runtime.decode import Statistics
from autotune.score import score_lookahead
from autotune.search_space.constraints import Constraints
from autotune.validate import Validation, _judge
from tests.support.figures import acceptance_by_category, latency, measured, record, target_latency

BURST = latency(0.001, 0.002, 0.003, 0.004)
UNEVEN = acceptance_by_category(code=0.9, chat=0.02)


def an_evaluator() -> Evaluator:
    """All that scoring needs of one."""
    unused: Any = None
    return Evaluator(
        drafts=unused,
        acceptances=unused,
        target=target_latency(),
        constraints=Constraints(context_tokens=64),
        lookaheads=(1, 2, 3, 4),
        measuring=unused,
        sampling=unused,
        limits=unused,
        device="cpu",
        work=unused,
    )


def finalist(acceptance: Acceptance = UNEVEN, lookahead: int = 3, objective: Objective = MEAN) -> Finalist:
    score = score_lookahead(acceptance, BURST, target_latency(), lookahead, objective)
    made = SimpleNamespace(
        record=record(0, measured(0.5, 0.001)), score=score, acceptance=acceptance, burst=BURST, drafting=None
    )
    return cast(Finalist, made)


def tally(*prompts: tuple[int, int, float]) -> Tally:
    """Of (tokens, rounds, decoding seconds) per prompt, half of the time spent in the target."""
    return Tally(
        tuple(Statistics(tokens=t, rounds=r, decode_s=s, burst_s=s / 4, verify_s=s / 2) for t, r, s in prompts)
    )


def test_the_best_lookahead_of_each_category_follows_from_its_own_tokens_per_round() -> None:
    chat, code = predicted_by_category(an_evaluator(), finalist())
    assert (chat.category, chat.traces, chat.best_lookahead) == ("chat", 1, 0)
    assert (code.category, code.traces, code.best_lookahead) == ("code", 1, 4)
    assert chat.best_speedup is not None
    assert chat.best_speedup.value == 1.0
    for outcome, kept in ((chat, 0.02), (code, 0.9)):
        assert outcome.tar_estimated is not None
        assert outcome.tar_estimated.value == pytest.approx(1 + 3 * kept)
        assert outcome.speedup_predicted is not None
        assert outcome.tar_measured is None
    assert lookahead_by_category((chat, code)) == {"chat": 0, "code": 4}


def test_with_one_category_there_is_nothing_to_tell() -> None:
    one = acceptance_by_category(code=0.9)
    pair = tally((30, 10, 1.0))
    assert predicted_by_category(an_evaluator(), finalist(one)) == ()
    assert outcomes_by_category(an_evaluator(), finalist(one), ["code"], pair, pair) == ()


def test_measured_figures_are_those_of_the_categorys_own_prompts() -> None:
    pair = tally((40, 10, 1.0), (10, 10, 1.0), (20, 5, 0.5))
    alone = tally((40, 40, 2.0), (10, 10, 0.5), (20, 20, 1.0))
    chat, code, poems = outcomes_by_category(an_evaluator(), finalist(), ["code", "poems", "code"], pair, alone)
    assert (chat.prompts, chat.tar_measured) == (0, None)
    assert chat.tar_estimated is not None
    assert (code.prompts, code.traces) == (2, 1)
    assert code.tar_measured is not None
    assert code.tar_measured.value == pytest.approx(60 / 15)
    assert code.tokens_per_s_measured is not None
    assert code.tokens_per_s_measured.value == pytest.approx(40.0)
    assert code.speedup_measured is not None
    assert code.speedup_measured.value == pytest.approx(2.0)
    assert (poems.traces, poems.prompts, poems.tar_estimated, poems.best_lookahead) == (0, 1, None, None)
    assert poems.speedup_measured is not None
    assert poems.speedup_measured.value == pytest.approx(0.5)


@pytest.mark.parametrize(("objective", "winner"), [(MEAN, 0), (WORST, 1)])
def test_the_winner_is_the_fastest_by_the_objective(objective: Objective, winner: int) -> None:
    """One pair is three times as fast on code and slower on chat; the other a little faster on both."""
    categories = ["code", "chat"]
    alone = tally((90, 90, 3.0), (30, 30, 1.0))
    tallies = [tally((90, 30, 1.0), (30, 28, 1.1)), tally((90, 60, 2.5), (30, 20, 0.8))]
    entries = [(finalist(objective=objective), each) for each in tallies]
    judged = [(made, _judge(made, alone, each, objective, categories)) for made, each in entries]
    assert Validation(judged[0][1].tokens_per_s_measured, tuple(judged)).shipping == judged[winner]
    assert judged[winner][1].tar_estimated == entries[winner][0].score.tokens_per_round


def test_nothing_wins_by_the_worst_category_that_is_slower_in_any() -> None:
    alone, uneven = tally((90, 90, 3.0), (30, 30, 1.0)), tally((90, 30, 1.0), (30, 28, 1.01))
    made = finalist(objective=WORST)
    judged = _judge(made, alone, uneven, WORST, ["code", "chat"])
    assert Validation(judged.tokens_per_s_measured, ((made, judged),)).shipping is None
    pooled = _judge(made, alone, uneven, MEAN, ["code", "chat"])
    assert Validation(pooled.tokens_per_s_measured, ((made, pooled),)).shipping is not None
