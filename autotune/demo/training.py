"""The training loop of the demo: data-parallel, deterministic, resumable at any step, stopped by a NaN."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from autotune.demo.model import llama_config
from autotune.demo.plan import TrainingPlan
from autotune.demo.state import load_state, new_optimizer, save_state

SAVE_EVERY_STEPS = 200

_RENDEZVOUS_TIMEOUT = timedelta(minutes=5)

Watch = Callable[[int, float], bool]
"""Called before each update with its step and the loss; training saves its state and stops once it returns False."""


@dataclass(frozen=True)
class TrainingFiles:
    """What a training reads and writes; all processes see the same files."""

    folder: Path
    state_name: str = "state.safetensors"

    @property
    def tokens(self) -> Path:
        """The corpus, `[tokens]` ids."""
        return self.folder / "tokens.npy"

    @property
    def state(self) -> Path:
        """The last good state."""
        return self.folder / self.state_name

    @property
    def rendezvous(self) -> Path:
        """Where the processes of one training find each other."""
        return self.folder / "rendezvous"


@dataclass(frozen=True)
class Outcome:
    """How a training ended; the weights are in the state file."""

    step: int
    """Updates behind the weights."""
    seconds: float
    """Time of all updates, those before a resumption included."""
    stopped: bool = False
    diverged_at_step: int | None = None


def run_training(plan: TrainingPlan, files: TrainingFiles, device: str, watch: Watch) -> Outcome:
    """Train from the state file to the plan's end, or until `watch` stops it or the loss is no longer a number."""
    if plan.processes == 1:
        return _train(plan, files, device, 0, watch)
    with _helpers(plan, files):
        _join(plan, files, 0)
        return _train(plan, files, device, 0, watch)


def batch(stream: NDArray[np.int32], plan: TrainingPlan, step: int, rank: int) -> NDArray[np.int64]:
    """A process's rows of a step, `[rows, length + 1]`: a function of seed, step and rank alone."""
    rows, length = plan.rows(step)
    starts = np.random.default_rng([plan.seed, step, rank]).integers(0, len(stream) - length, rows)
    return np.stack([stream[start : start + length + 1] for start in starts]).astype(np.int64)


def _train(plan: TrainingPlan, files: TrainingFiles, device: str, rank: int, watch: Watch) -> Outcome:
    stream = np.load(files.tokens, mmap_mode="r")
    model = LlamaForCausalLM(llama_config(plan.shape, plan.context_tokens)).to(device).train()
    optimizer = new_optimizer(model, plan.learning_rate, plan.weight_decay)
    first, seconds = load_state(files.state, model, optimizer)
    began = time.perf_counter() - seconds
    for step in range(first, plan.steps):
        rows = torch.from_numpy(batch(stream, plan, step, rank)).to(device)
        optimizer.zero_grad()
        loss = _next_token_loss(model, rows)
        loss.backward()  # type: ignore[no-untyped-call]
        mean_loss = _average(model, loss.detach()) if plan.processes > 1 else loss.item()
        norm = nn.utils.clip_grad_norm_(model.parameters(), plan.clip_norm)
        if not math.isfinite(mean_loss) or not torch.isfinite(norm):
            return _diverged(files, model, step)
        # Only now is it certain that the weights are good: they gave a finite loss and gradient.
        keep_going = watch(step, mean_loss)
        if rank == 0 and (step % SAVE_EVERY_STEPS == 0 or not keep_going):
            save_state(files.state, model, optimizer, step, time.perf_counter() - began)
        if not keep_going:
            return Outcome(step, time.perf_counter() - began, stopped=True)
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        optimizer.step()
    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters()):
        return _diverged(files, model, plan.steps)
    if rank == 0:
        save_state(files.state, model, optimizer, plan.steps, time.perf_counter() - began)
    return Outcome(plan.steps, time.perf_counter() - began)


def _diverged(files: TrainingFiles, model: LlamaForCausalLM, step: int) -> Outcome:
    good_step, seconds = load_state(files.state, model)
    return Outcome(good_step, seconds, diverged_at_step=step)


def _next_token_loss(model: LlamaForCausalLM, rows: Tensor) -> Tensor:
    logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def _average(model: nn.Module, loss: Tensor) -> float:
    """The loss's mean over all processes, after the gradients were replaced by theirs."""
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients] + [loss[None]])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    at = 0
    for gradient in gradients:
        gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()
    return flat[-1].item()


@contextmanager
def _helpers(plan: TrainingPlan, files: TrainingFiles) -> Iterator[None]:
    """The processes of ranks 1 … while the block runs."""
    files.rendezvous.unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    helpers = [
        context.Process(target=_help, args=(plan, files, rank), daemon=True) for rank in range(1, plan.processes)
    ]
    torch.set_num_threads(1)  # as many processes as cores: more threads would fight for them
    try:
        for helper in helpers:
            helper.start()
        yield
    finally:
        for helper in helpers:
            helper.terminate()
            helper.join()
        if dist.is_initialized():
            dist.destroy_process_group()
        files.rendezvous.unlink(missing_ok=True)


def _help(plan: TrainingPlan, files: TrainingFiles, rank: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides when to stop
    torch.set_num_threads(1)
    _join(plan, files, rank)
    _train(plan, files, "cpu", rank, lambda step, loss: True)


def _join(plan: TrainingPlan, files: TrainingFiles, rank: int) -> None:
    dist.init_process_group(
        "gloo",
        init_method=files.rendezvous.absolute().as_uri(),
        rank=rank,
        world_size=plan.processes,
        timeout=_RENDEZVOUS_TIMEOUT,
    )
