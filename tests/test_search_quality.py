from pathlib import Path

import pytest
from pydantic import TypeAdapter

from autotune.results import Rejected, RejectReason, TrialRecord
from benchmarks import search_quality, truth
from benchmarks.search_quality import Best, Unseeded, judge
from benchmarks.truth import Truth, find_truth
from tests.support.evaluators import LOOKAHEADS, outcome_of, tiny_space
from tests.support.figures import target_latency

SPACE = tiny_space(ffn="16:96:16")


def exhaustive() -> Truth:
    outcomes = {build.key(): outcome_of(build) for build in SPACE.builds()}
    return Truth({"target": "tiny"}, {}, "2026-01-01", 1.0, target_latency(LOOKAHEADS), outcomes)


def test_the_best_judges_all_builds_as_perfect_and_fewer_as_worse() -> None:
    known = exhaustive()
    best = Best.of(known)
    records = [TrialRecord(n, each, 1, 0.0, outcome_of(each)) for n, each in enumerate(SPACE.builds())]
    assert best.judge(records) == pytest.approx((0.0, 1.0))
    without = [record for record in records if not set(record.scores) & set(best.front)]
    regret, volume = best.judge(without)
    assert regret > 0
    assert volume < 1
    failed = TrialRecord(0, records[0].build, 1, 0.0, Rejected(RejectReason.CRASHED, "died"))
    assert best.judge([failed]) == (1.0, 0.0)


def test_a_sampler_is_judged_at_every_share_of_the_builds() -> None:
    known = exhaustive()
    table = judge(SPACE, known, Best.of(known), "random", range(3))
    assert [each["builds"] for each in table["at"]] == [round(share * SPACE.size) for share in search_quality.SHARES]
    for before, after in zip(table["at"], table["at"][1:], strict=False):
        assert all(b >= a for b, a in zip(before["regret"]["samples"], after["regret"]["samples"], strict=True))
        assert all(
            b <= a for b, a in zip(before["hypervolume"]["samples"], after["hypervolume"]["samples"], strict=True)
        )
    for each in table["at"]:
        assert each["regret"]["worst"] >= each["regret"]["median"] >= 0
        assert each["hypervolume"]["worst"] <= each["hypervolume"]["median"] <= 1


def test_the_unseeded_space_is_the_same_with_one_seed() -> None:
    bare = Unseeded(**vars(SPACE))
    assert list(bare.builds()) == list(SPACE.builds())
    assert bare.seeds() == SPACE.seeds()[:1]


def test_a_whole_truth_is_read_and_that_of_another_space_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(truth, "space_of", lambda asked: SPACE)
    file = tmp_path / "truth.json"
    file.write_bytes(TypeAdapter(Truth).dump_json(exhaustive()))
    assert find_truth({"target": "tiny"}, {}, file) == exhaustive()
    with pytest.raises(SystemExit, match="another space"):
        find_truth({"target": "other"}, {}, file)
