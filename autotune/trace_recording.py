"""One file of a target's traces: `autotune traces`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from autotune.endpoint.address import Endpoint
from autotune.endpoint.recording import CONCURRENCY, record_served
from autotune.errors import BadRequest
from autotune.programs import compile_target
from autotune.runtime.session import open_session
from autotune.sampling import SamplingSettings
from autotune.targets import Target
from autotune.tensor_file import check_writable
from autotune.trace_files import save_traces
from autotune.traces import TokenModel, Traces, record
from autotune.workload import read_prompts, tokenize

RUNNERS = ("autotune", "transformers")
"""What a local target can be run by: the program we compile, or transformers' own model."""
_PROGRAM_COPIES = 3
"""Copies of the fp32 weights that are in memory when a target is compiled and opened, at most."""

Progress = Callable[[int, int], None]
Note = Callable[[str], None]


@dataclass(frozen=True)
class TraceRequest:
    """What `autotune traces` is asked for."""

    prompts: str
    settings: SamplingSettings
    max_new_tokens: int
    seed: int
    out: Path
    threads: int = 1
    concurrency: int = CONCURRENCY
    """Requests under way at once, where the target is served."""
    runner: str | None = None
    """What runs a local target, one of `RUNNERS`; None leaves the choice to its size."""


def record_file(
    target: Target, request: TraceRequest, on_progress: Progress, on_note: Note, endpoint: Endpoint | None = None
) -> Traces:
    """The target's traces of every prompt of a file but those that are only to train on, written to a file."""
    check_writable(request.out)
    chosen = [prompt for prompt in read_prompts(request.prompts) if not prompt.only_train]
    context_tokens = min(
        limit for limit in (target.numerics.context_tokens, endpoint and endpoint.context_tokens) if limit
    )
    tokens = tokenize(chosen, target.open_tokenizer(), context_tokens)
    how = (tokens, request.settings, request.max_new_tokens, request.seed, on_progress)
    if endpoint is not None:
        traces = record_served(endpoint, target, *how, concurrency=request.concurrency)
    else:
        traces = record(open_local(target, request.runner, request.threads, on_note), target, *how)
    save_traces(traces, request.out)
    return traces


def open_local(target: Target, runner: str | None, threads: int, on_note: Note) -> TokenModel:
    """The target as something that continues prompts here: our compiled program, or transformers' model."""
    if runner not in (None, *RUNNERS):
        raise BadRequest(f"--with {runner}: give one of {', '.join(RUNNERS)}")
    if runner is None:
        needed, free = _PROGRAM_COPIES * target.shape.parameters * 4, psutil.virtual_memory().available
        if needed > free:
            on_note(
                f"{target.id} runs in transformers: compiling it takes {needed / 2**30:.1f} GiB of memory, and "
                f"{free / 2**30:.1f} GiB are free"
            )
            runner = "transformers"
    if runner == "transformers":
        from autotune.transformers_model import TransformersModel

        return TransformersModel(target, threads)
    return open_session(compile_target(target, "onnxruntime"), threads)
