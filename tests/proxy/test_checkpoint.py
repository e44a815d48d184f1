"""Checkpoints of trainings: what is taken up, what is refused with a note, and what a kill or a full disk leaves."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from autotune import tensor_file
from autotune.errors import BadRequest, TrainingDiverged
from autotune.proxy.finish import whole_objective
from autotune.proxy.launch import run_job
from autotune.proxy.place import Place
from autotune.proxy.training import Recipe, Trained
from autotune.proxy.training_job import TrainingJob, Watch
from autotune.traces import Traces
from autotune.weights import ModelWeights
from tests.support.disks import largest_file_bytes

STEPS = 12
RECIPE = Recipe(learning_rate=1e-2, batch_tokens=128, checkpoint_steps=4, warmup_steps=3)
_save_file = tensor_file.save_file


class Killed(BaseException):
    """Stands for the end of the process."""


class Bench:
    """Trainings of one source in one work folder."""

    def __init__(self, source: ModelWeights, traces: Traces, folder: Path) -> None:
        self.source, self.traces, self.folder = source, traces, folder
        self.notes: list[str] = []
        self.progress: list[int] = []

    def train(
        self, *, seed: int = 0, steps: int = STEPS, recipe: Recipe = RECIPE, place: Place | None = None, kill: int = -1
    ) -> Trained:
        def on_progress(share: float) -> None:
            self.progress.append(round(share * steps))
            if self.progress[-1] == kill:
                raise Killed

        self.progress.clear()
        objective = f"{whole_objective.__module__}:{whole_objective.__name__}"
        job = TrainingJob(objective, {}, self.traces, steps, recipe, seed)
        watch = Watch(on_progress, self.notes.append)
        return run_job(job, lambda: self.source, place or Place(), work_folder=self.folder, watch=watch)

    def killed_at(self, step: int) -> None:
        with pytest.raises(Killed):
            self.train(kill=step)

    @property
    def file(self) -> Path:
        (file,) = self.folder.iterdir()
        return file


@pytest.fixture
def bench(source: ModelWeights, greedy_traces: Traces, tmp_path: Path) -> Bench:
    return Bench(source, greedy_traces, tmp_path / "work")


@pytest.fixture(scope="module")
def whole(source: ModelWeights, greedy_traces: Traces, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The training that nothing disturbed."""
    return Bench(source, greedy_traces, tmp_path_factory.mktemp("whole")).train()


def assert_equal(one: Trained, other: Trained) -> None:
    assert one.step == other.step
    for name, expected in one.tensors.items():
        assert torch.equal(other.tensors[name], expected), name


def test_a_killed_training_goes_on_behind_its_last_checkpoint(bench: Bench, whole: Trained) -> None:
    bench.killed_at(7)
    assert_equal(bench.train(), whole)
    assert bench.progress == list(range(5, STEPS + 1))
    assert bench.notes == []


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    bench: Bench, whole: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def cut_short(arrays: Mapping[str, Any], path: Path, metadata: dict[str, str]) -> None:
        nonlocal written
        written += 1
        _save_file(arrays, path, metadata)
        if written == 2:
            os.truncate(path, path.stat().st_size // 2)
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(tensor_file, "save_file", cut_short)
        with pytest.raises(Killed):
            bench.train()
    assert bench.progress == list(range(1, 8))
    assert_equal(bench.train(), whole)
    assert bench.progress == list(range(5, STEPS + 1))


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"steps": STEPS + 4}, {"recipe": Recipe(2e-2, 128, 3, checkpoint_steps=4)}],
    ids=["seed", "steps", "recipe"],
)
def test_a_checkpoint_of_another_training_is_never_taken_up(
    bench: Bench, source: ModelWeights, greedy_traces: Traces, tmp_path: Path, change: dict[str, Any]
) -> None:
    bench.killed_at(7)
    fresh = Bench(source, greedy_traces, tmp_path / "fresh").train(**change)
    assert_equal(bench.train(**change), fresh)
    assert len(bench.notes) == 1
    assert "was written by another training: the training begins anew" in bench.notes[0]


@pytest.mark.parametrize("damage", ["cut", "flipped", "replaced", "empty"])
def test_a_damaged_checkpoint_is_passed_over_with_a_note(bench: Bench, whole: Trained, damage: str) -> None:
    bench.killed_at(7)
    content = bytearray(bench.file.read_bytes())
    content[-5] ^= 64
    bench.file.write_bytes(
        {"cut": bytes(content[: len(content) // 2]), "flipped": bytes(content), "replaced": b"x" * 99, "empty": b""}[
            damage
        ]
    )
    assert_equal(bench.train(), whole)
    assert bench.progress[0] == 1
    (note,) = bench.notes
    assert "is damaged" in note
    assert "\n" not in note


def test_a_full_disk_ends_a_training_in_one_line_and_costs_nothing_but_the_steps_since(
    bench: Bench, whole: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.killed_at(5)

    def full(arrays: Mapping[str, Any], path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(tensor_file, "save_file", full)
        with pytest.raises(BadRequest, match=r"^cannot write .*training.safetensors: No space left on device$"):
            bench.train()
    assert bench.file.name == "training.safetensors"
    assert_equal(bench.train(), whole)
    assert bench.progress[0] == 5


def test_a_disk_that_is_really_full(bench: Bench, whole: Trained) -> None:
    with largest_file_bytes(4096), pytest.raises(BadRequest, match=r"^cannot write .*training.safetensors: "):
        bench.train()
    assert list(bench.folder.iterdir()) == []
    assert_equal(bench.train(), whole)


def test_weights_that_burst_in_a_checkpoints_own_step_are_not_good(bench: Bench) -> None:
    with pytest.raises(TrainingDiverged, match="step 1 of 12"):
        bench.train(recipe=Recipe(3e38, 128, 1, clip_norm=1e30, checkpoint_steps=1))
    assert not bench.folder.exists()
