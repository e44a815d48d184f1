"""A shipped pair whose lookahead is chosen round by round: opened, overridden, generated with and measured."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autotune.artifact import MANIFEST_FILE, read_manifest
from autotune.bench import BenchRequest, bench_artifact, check_lossless
from autotune.cli import app
from autotune.errors import ArtifactError, BadRequest
from autotune.pair import Pair
from autotune.runtime.adaptive import AdaptiveDrafter
from tests.support.artifacts import artifact_of_demo
from tests.support.stopping import plan_of

PLAN = plan_of(5, lookahead=3, power=0.5)
TEXT = "def read_lines(path):\n"


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact_of_demo(tmp_path_factory.mktemp("adaptive") / "artifact", adaptive=PLAN)


def test_the_plan_is_kept_in_the_manifest(adaptive: Path) -> None:
    assert read_manifest(adaptive).adaptive == PLAN


def test_manifests_without_a_plan_are_read_as_before(adaptive: Path, tmp_path: Path) -> None:
    manifest = json.loads((adaptive / MANIFEST_FILE).read_text())
    del manifest["adaptive"]
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert read_manifest(tmp_path).adaptive is None


def test_a_malformed_plan_is_refused(adaptive: Path, tmp_path: Path) -> None:
    manifest = json.loads((adaptive / MANIFEST_FILE).read_text())
    manifest["adaptive"]["verify_s"] = [1.0]
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"adaptive.*adaptive plan has"):
        read_manifest(tmp_path)


def test_a_pair_follows_the_plan_unless_told_otherwise(adaptive: Path) -> None:
    outputs, drafted = [], []
    for asked in (None, True, False):
        with Pair.open(adaptive, adaptive=asked) as pair:
            assert isinstance(pair.decoder.drafter, AdaptiveDrafter) is (asked is not False)
            assert pair.decoder.lookahead == (3 if asked is False else PLAN.most)
            done = pair.generate(TEXT, 40)
            outputs.append(done.tokens)
            drafted.append(done.statistics.drafted / done.statistics.rounds)
            sampled = pair.generate(TEXT, 20, temperature=0.8, seed=1)
            assert sampled.statistics.drafted <= 3 * sampled.statistics.rounds  # not calibrated for: as fixed
    assert outputs[0] == outputs[1] == outputs[2]
    assert drafted[0] == drafted[1] != drafted[2]


def test_an_artifact_without_a_plan_cannot_be_asked_for_it(tmp_path: Path) -> None:
    artifact = artifact_of_demo(tmp_path / "artifact", layers=1)
    with pytest.raises(BadRequest, match="no run with --adaptive-k found it to pay"):
        Pair.open(artifact, adaptive=True)


def test_the_command_line_asks_for_either(adaptive: Path) -> None:
    words = ["generate", str(adaptive), "--prompt", TEXT, "--max-new-tokens", "12"]
    texts = [CliRunner().invoke(app, [*words, *flag]) for flag in ([], ["--adaptive-k"], ["--no-adaptive-k"])]
    assert [each.exit_code for each in texts] == [0, 0, 0]
    assert texts[0].stdout == texts[1].stdout == texts[2].stdout


def test_bench_and_verify_decode_both_ways(adaptive: Path) -> None:
    request = BenchRequest(adaptive, count=2, max_new_tokens=16, repeats=1)
    result = bench_artifact(request)
    assert result.adaptive is not None
    assert result.adaptive.tokens_per_s.value > 0
    assert 0 < result.adaptive.drafted_per_round <= PLAN.most
    assert result.adaptive.gain.value == pytest.approx(
        result.adaptive.tokens_per_s.value / result.tokens_per_s.value, rel=1e-6
    )
    assert {"gain", "speedup", "mismatches"} <= asdict(result)["adaptive"].keys()
    assert check_lossless(request) == (4, 0, 0)
