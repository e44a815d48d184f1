"""Trainings in real processes of their own, which accelerate brings together over gloo."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from autotune.alternatives import Alternatives
from autotune.errors import AutotuneError, TrainingDiverged
from autotune.proxy.launch import run_job
from autotune.proxy.lesson_digest import lesson_digest
from autotune.proxy.place import Place
from autotune.proxy.training import Recipe
from autotune.proxy.training_job import TrainingJob, Watch
from autotune.trace_files import load_traces, save_traces
from autotune.traces import Traces
from autotune.weights import ModelWeights

STEPS = 30
RECIPE = Recipe(learning_rate=3e-3, batch_tokens=128, warmup_steps=3, checkpoint_steps=5)
TWO = Place(processes=2, threads=2)


def job_of(traces: Traces, objective: str, **settings: object) -> TrainingJob:
    return TrainingJob(f"tests.support.objectives:{objective}", settings, traces, STEPS, RECIPE, seed=2)


def test_two_processes_killed_and_continued_train_what_one_does(
    source: ModelWeights, greedy_traces: Traces, tmp_path: Path
) -> None:
    others = set(psutil.Process().children())
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir()
    together.mkdir()
    one = run_job(job_of(greedy_traces, "recording", folder=str(alone)), lambda: source, Place())
    job, work = job_of(greedy_traces, "recording", folder=str(together)), tmp_path / "work"

    def kill_one(share: float) -> None:
        if share > 0.5:
            *_, youngest = sorted(psutil.Process().children(), key=lambda child: child.create_time())
            os.kill(youngest.pid, signal.SIGKILL)

    with pytest.raises(
        AutotuneError, match=r"^process 2 of 2 that trained together was killed from outside, most likely for lack of"
    ):
        run_job(job, lambda: source, TWO, work_folder=work, watch=Watch(kill_one))
    assert [path.name for path in work.iterdir()] == ["training.safetensors"]
    assert set(psutil.Process().children()) <= others

    notes: list[str] = []
    shares: list[float] = []
    two = run_job(job, lambda: source, TWO, work_folder=work, watch=Watch(shares.append, notes.append))
    assert shares[0] > 0.5 - RECIPE.checkpoint_steps / STEPS
    assert shares[-1] == 1.0
    assert notes == []
    for name, expected in one.tensors.items():
        torch.testing.assert_close(two.tensors[name], expected, rtol=0, atol=1e-5, msg=name)
    # At every step, before and after the kill, both processes held the very same weights.
    lines = [line for rank in range(2) for line in (together / f"process-{rank}").read_text().splitlines()]
    assert [line.split()[0] for line in sorted(set(lines), key=lambda line: int(line.split()[0]))] == [
        str(step) for step in range(STEPS)
    ]
    assert len(lines) > 2 * STEPS


def test_the_process_that_failed_first_is_named_with_what_it_wrote(source: ModelWeights, greedy_traces: Traces) -> None:
    others = set(psutil.Process().children())
    with pytest.raises(
        AutotuneError,
        match=r"^process 2 of 2 that trained together ended with code 1; .*ValueError: an unforeseen shape$",
    ) as caught:
        run_job(job_of(greedy_traces, "failing"), lambda: source, TWO)
    assert "\n" not in str(caught.value)
    assert set(psutil.Process().children()) <= others


@pytest.mark.slow
def test_divergence_in_processes_is_told_as_in_one(source: ModelWeights, greedy_traces: Traces) -> None:
    notes: list[str] = []
    job = job_of(greedy_traces, "diverging", step=7)
    stopped = run_job(job, lambda: source, TWO, watch=Watch(on_note=notes.append))
    assert (stopped.diverged_at_step, stopped.step) == (7, 5)
    assert notes == [
        "the training loss became NaN or infinite at step 7 of 30: the last good weights, of step 5, are kept"
    ]
    reference = run_job(replace(job, settings={"step": 7}), lambda: source, Place(), watch=Watch(on_note=notes.append))
    assert notes[0] == notes[1]
    for name, expected in reference.tensors.items():
        torch.testing.assert_close(stopped.tensors[name], expected, rtol=0, atol=1e-5, msg=name)
    with pytest.raises(TrainingDiverged, match="step 2 of 30"):
        run_job(job_of(greedy_traces, "diverging", step=2), lambda: source, TWO)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch finds fewer than two CUDA devices")
def test_two_gpus_train_what_one_does(source: ModelWeights, greedy_traces: Traces, tmp_path: Path) -> None:
    job = job_of(greedy_traces, "recording", folder=str(tmp_path))
    one, two = (run_job(job, lambda: source, Place("cuda", processes)) for processes in (1, 2))
    for name, expected in one.tensors.items():
        # Adam moves a weight by the learning rate at most, whichever way bf16 rounds its gradient.
        torch.testing.assert_close(two.tensors[name], expected, rtol=0, atol=2 * STEPS * RECIPE.learning_rate, msg=name)


def test_processes_get_all_that_can_be_learned_of_traces(greedy_traces: Traces, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    items = []
    for trace in greedy_traces.items:
        counts = rng.integers(0, 4, len(trace.top)).astype(np.int32)
        tokens = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
        logprobs = (-2.0 - tokens).astype(np.float32)
        items.append(replace(trace, alternatives=Alternatives(counts, tokens, logprobs)))
    traces = replace(greedy_traces, items=tuple(items))
    save_traces(traces, tmp_path / "traces")
    assert lesson_digest(load_traces(tmp_path / "traces")) == lesson_digest(traces) != lesson_digest(greedy_traces)
