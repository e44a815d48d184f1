"""Artifacts that draft without a model, or before one is asked, from their manifests to their text."""

import json
from pathlib import Path

import pytest

from autotune.artifact import MANIFEST_FILE, verify_artifact
from autotune.bench import BenchRequest, bench_artifact, check_lossless
from autotune.candidate import Lookup, LookupKind
from autotune.errors import ArtifactError
from autotune.pair import Pair
from tests.support.artifacts import artifact_of_demo, artifact_without_draft

LOOKUP = Lookup(LookupKind.SUFFIX_AUTOMATON, 2)
PROMPT = "def first(self):\n    return self.first\n\ndef second(self):\n    return self."


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact_without_draft(tmp_path_factory.mktemp("lookup") / "artifact", LOOKUP, lookahead=4)


def test_the_pair_is_lossless_and_takes_fewer_rounds(artifact: Path) -> None:
    with Pair.open(artifact) as pair:
        assert pair.manifest.model_free == LOOKUP
        found = pair.generate(PROMPT, 80)
        alone = pair.alone().generate(PROMPT, 80)
    assert found.tokens == alone.tokens
    assert found.statistics.rounds < 80 == alone.statistics.rounds


def test_it_is_measured_and_verified_as_every_pair(artifact: Path) -> None:
    request = BenchRequest(artifact, count=3, max_new_tokens=24, repeats=1)
    measured = bench_artifact(request)
    assert measured.lookahead == 4
    assert measured.tokens_per_round.value > 1.0
    assert check_lossless(request) == (3, 0, 0)


def test_a_lookahead_without_anything_that_drafts_is_refused(artifact: Path, tmp_path: Path) -> None:
    broken = artifact_without_draft(tmp_path / "broken", LOOKUP, lookahead=4)
    manifest = json.loads((broken / MANIFEST_FILE).read_text())
    (broken / MANIFEST_FILE).write_text(json.dumps({**manifest, "model_free": None}))
    with pytest.raises(ArtifactError, match="describes no draft"):
        verify_artifact(broken)


def test_a_lookup_before_a_draft_is_lossless_and_asks_it_less_often(tmp_path: Path) -> None:
    artifact = artifact_of_demo(tmp_path / "both", layers=4, lookahead=2, lookup=LOOKUP, lookup_lookahead=6)
    with Pair.open(artifact) as pair:
        both = pair.generate(PROMPT, 80)
        alone = pair.alone().generate(PROMPT, 80)
        sibling = pair.sibling().generate(PROMPT, 80)
        sampled = [pair.generate(PROMPT, 40, temperature=0.7, seed=1).tokens for _ in range(2)]
    assert both.tokens == alone.tokens == sibling.tokens
    assert len(both.statistics.emitted) > 3  # more than the draft's two and the target's own: something was found
    assert sampled[0] == sampled[1]
    request = BenchRequest(artifact, count=2, max_new_tokens=24, repeats=1)
    assert bench_artifact(request).tokens_per_round.value > 1.0
    assert check_lossless(request) == (2, 0, 0)
