"""What an artifact holds of a draft, above all of one whose vocabulary is trimmed."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from autotune.artifact import ArtifactKind, Manifest, read_manifest, verify_artifact
from autotune.batch_results import BatchEntry
from autotune.batch_schedule import Schedule
from autotune.candidate import Build, Lookup, LookupKind, Precision
from autotune.category_results import CategoryOutcome
from autotune.families import read_checkpoint
from autotune.finalists import Finalist
from autotune.lookup_results import Decoded, LookupFirstOutcome
from autotune.objective import MEAN, WORST, Objective, weighted
from autotune.results import Evidence, Figure, Validated
from autotune.ship import ship, ship_unvalidated
from autotune.targets import resolve_target
from autotune.workbench import Workbench
from tests.support.figures import constant_acceptance, latency, measured, scores
from tests.support.figures import record as figures_record

FIGURE = Figure(2.0, Evidence.MEASURED)


@pytest.fixture
def bench(tiny_checkpoint: Path) -> Workbench:
    target = resolve_target(str(tiny_checkpoint))
    config = SimpleNamespace(seed=0)
    device = SimpleNamespace(kind="cpu", fingerprint="a device")
    request = SimpleNamespace(
        target_backend="onnxruntime",
        target=target,
        source=target,
        whole_source=target,
        text_target=target,
        config=config,
        device=device,
        target_precision=Precision.FP32,
        objective=MEAN,
    )
    return cast(Workbench, SimpleNamespace(request=request, threads=1))


def shipped(
    bench: Workbench, folder: Path, draft_vocab: int | None, lookup: LookupFirstOutcome | None = None
) -> Manifest:
    whole = bench.request.source.read_weights()
    build = Build(replace(whole.shape, draft_vocab=draft_vocab), "tvm", Precision.FP32)
    program = folder / "program"
    program.mkdir()
    (program / "program.json").write_text("{}")
    figures: dict[str, Any] = dict.fromkeys(
        ("tar_estimated", "tar_measured", "tokens_per_s_predicted", "tokens_per_s_measured"), FIGURE
    )
    speedups = {"speedup_predicted": FIGURE, "speedup_measured": FIGURE}
    validated = Validated(build, 3, **figures, **speedups, rounds=9, burst_s=0.1, verify_s=0.1, overhead_s=0.1)
    finalist = cast(Finalist, SimpleNamespace(program=program, whole=whole))
    return ship(bench, (finalist, validated), folder / "artifact", {}, lookup=lookup)


def test_the_checkpoint_of_a_trimmed_draft_is_whole_and_the_manifest_says_so(bench: Workbench, tmp_path: Path) -> None:
    manifest = shipped(bench, tmp_path, 40)
    assert manifest.draft is not None
    assert manifest.draft.shape.draft_vocab == 40
    (note,) = manifest.notes
    assert "proposes only 40 of 320 tokens" in note
    assert "checkpoint/ holds the same draft with its whole vocabulary" in note
    assert verify_artifact(tmp_path / "artifact") == manifest
    whole, read = bench.request.source.read_weights(), read_checkpoint(tmp_path / "artifact" / "checkpoint")
    assert read.shape == whole.shape
    assert all(np.array_equal(read.arrays[name], whole.arrays[name]) for name in whole.arrays)


def test_a_lookup_before_the_draft_is_in_the_manifest_with_the_figures_of_both(
    bench: Workbench, tmp_path: Path
) -> None:
    lookup = Lookup(LookupKind.SUFFIX_AUTOMATON, 2)
    decoded = Decoded(FIGURE, FIGURE, Figure(2.5, Evidence.MEASURED))
    score = scores(constant_acceptance(0.5), latency(*[0.001] * 4), 4)[1]
    build = Build(bench.request.source.shape, "tvm", Precision.FP32)
    manifest = shipped(bench, tmp_path, None, LookupFirstOutcome(build, lookup, 7, score, decoded))
    assert manifest.draft is not None
    assert (manifest.lookahead, manifest.model_free, manifest.model_free_lookahead) == (2, lookup, 7)
    assert manifest.figures is not None
    assert manifest.figures.speedup_measured == decoded.speedup
    assert manifest.figures.speedup_predicted == score.speedup


def test_a_whole_draft_needs_no_note(bench: Workbench, tmp_path: Path) -> None:
    manifest = shipped(bench, tmp_path, None)
    assert manifest.notes == ()
    assert manifest.draft is not None
    assert manifest.draft.shape == bench.request.source.shape


def test_the_verdict_not_to_speculate_ships_the_tokenizer_alone(bench: Workbench, tmp_path: Path) -> None:
    manifest = ship(bench, None, tmp_path / "artifact", {})
    assert (manifest.lookahead, manifest.draft, manifest.notes) == (0, None, ())
    assert {Path(entry.path).parts[0] for entry in manifest.files} == {"tokenizer"}


def test_a_draft_that_nobody_decoded_says_so(bench: Workbench, tmp_path: Path) -> None:
    whole = bench.request.whole_source.read_weights()
    program = tmp_path / "program"
    program.mkdir()
    (program / "program.json").write_text("{}")
    build = Build(whole.shape, "onnxruntime", Precision.FP32)
    score = scores(constant_acceptance(0.5), latency(0.001, 0.002), 2)[-1]
    outcome = measured(0.5, 0.001)
    finalist = Finalist(figures_record(0, outcome, build), whole, program, score, outcome.acceptance, outcome.burst)
    manifest = ship_unvalidated(bench, finalist, tmp_path / "artifact", {})
    assert (manifest.kind, manifest.lookahead) == (ArtifactKind.UNVALIDATED, 2)
    assert manifest.figures is not None
    assert manifest.figures.tokens_per_s_measured is None
    assert manifest.figures.break_even_tokens_per_round == score.break_even
    assert manifest.notes[0].startswith("Not validated: ")
    assert "2 speculative tokens" in manifest.notes[1]
    assert read_checkpoint(tmp_path / "artifact" / "checkpoint").shape == whole.shape
    alone = ship_unvalidated(bench, None, tmp_path / "alone", {})
    assert (alone.kind, alone.lookahead, alone.draft) == (ArtifactKind.UNVALIDATED, 0, None)


def test_the_best_lookahead_of_every_category_is_in_the_manifest(bench: Workbench, tmp_path: Path) -> None:
    outcomes = [
        CategoryOutcome("chat", 3, 0, best_lookahead=0),
        CategoryOutcome("code", 5, 0, best_lookahead=4),
        CategoryOutcome("poems", 0, 2),
    ]
    ship_unvalidated(bench, None, tmp_path / "artifact", {}, outcomes=outcomes)
    assert read_manifest(tmp_path / "artifact").lookahead_by_category == {"chat": 0, "code": 4}
    fields = json.loads((tmp_path / "artifact" / "manifest.json").read_text())
    del fields["lookahead_by_category"]  # as in artifacts of earlier versions
    (tmp_path / "artifact" / "manifest.json").write_text(json.dumps(fields))
    assert read_manifest(tmp_path / "artifact").lookahead_by_category == {}


@pytest.mark.parametrize(
    ("objective", "words"),
    [(WORST, "worst category"), (weighted({"code": 3, "chat": 1}), "25% chat, 75% code")],
)
def test_the_manifest_says_what_its_figures_are_of(
    bench: Workbench, tmp_path: Path, objective: Objective, words: str
) -> None:
    cast(Any, bench.request).objective = objective
    (note,) = shipped(bench, tmp_path, None).notes
    assert words in note


def test_the_schedule_says_of_one_sequence_what_was_decided(bench: Workbench, tmp_path: Path) -> None:
    def entry(batch: int, lookahead: int) -> BatchEntry:
        figure = Figure(1.0, Evidence.ESTIMATED)
        return BatchEntry(batch, lookahead, lookahead, figure, figure)

    schedule = Schedule((entry(1, 5), entry(4, 2)), ())
    manifest = ship(bench, None, tmp_path / "artifact", {}, schedule=schedule)
    assert manifest.lookahead_schedule == ((1, 1, 0), (2, 4, 2))
