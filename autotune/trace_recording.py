"""One file of a target's traces: `autotune traces`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autotune.endpoint.address import Endpoint, served_fingerprint
from autotune.endpoint.recording import CONCURRENCY, record_served
from autotune.errors import BadRequest, did_you_mean
from autotune.memory import available_bytes, compile_bytes
from autotune.number_formats import Precision
from autotune.programs import compile_target
from autotune.progress import Observer
from autotune.runtime.session import open_session
from autotune.sampling import SamplingSettings
from autotune.targets import Target, TextModel, find_model, find_tokenizer
from autotune.tensor_file import check_writable
from autotune.tokenizer import Tokenizer
from autotune.trace_files import save_traces
from autotune.traces import TokenModel, Traces, record
from autotune.workload import PromptTokens, read_prompts, tokenize

RUNNERS = ("autotune", "transformers")
"""What a local target can be run by: the program we compile, or transformers' own model."""


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
    alternatives: bool = True
    """Whether the target's likeliest tokens at each position are recorded too: what files lack can't be added later."""

    def __post_init__(self) -> None:
        if self.runner not in (None, *RUNNERS):
            near = did_you_mean(self.runner, RUNNERS)
            raise BadRequest(f"--with {self.runner}: {near + ' ' if near else ''}give one of {', '.join(RUNNERS)}")


def record_here(target: Target, request: TraceRequest, observer: Observer) -> Traces:
    """The target's traces of every prompt of a file but those that are only to train on, written to a file."""
    prompts = _prompts(target, request, target.numerics.context_tokens)
    model = open_local(target, request.runner, request.threads, observer)
    how = (prompts, request.settings, request.max_new_tokens, request.seed, _progress(observer))
    traces = record(model, target, *how, request.alternatives)
    save_traces(traces, request.out)
    return traces


def record_remote(endpoint: Endpoint, model: TextModel, request: TraceRequest, observer: Observer) -> Traces:
    """As `record_here`, of a target that a server runs."""
    limits = (model.numerics.context_tokens, endpoint.context_tokens)
    prompts = _prompts(model, request, min(limit for limit in limits if limit))
    traces = record_served(
        endpoint,
        model,
        prompts,
        request.settings,
        request.max_new_tokens,
        request.seed,
        _progress(observer),
        request.alternatives,
        concurrency=request.concurrency,
    )
    save_traces(traces, request.out)
    return traces


def served_model(name: str, endpoint: Endpoint, download: bool, observer: Observer) -> TextModel:
    """What a server runs under that name: the checkpoint if it is here, else its shape and its tokenizer.

    Traces of a checkpoint count as its own; those of a model whose weights are elsewhere as the endpoint's.
    """
    if download:
        find_tokenizer(name, download=True, observer=observer)
    model = find_model(name)
    if isinstance(model, Target):
        return model
    tokenizer = Tokenizer.open(find_tokenizer(name))
    return TextModel(
        id=model.id,
        family=model.family,
        shape=model.shape,
        numerics=model.numerics,
        tokenizer_folder=tokenizer.folder,
        fingerprint=served_fingerprint(endpoint, tokenizer.fingerprint),
        tokenizer_fingerprint=tokenizer.fingerprint,
        eos_ids=tokenizer.eos_ids,
        bos_id=tokenizer.bos_id,
    )


def _prompts(model: TextModel, request: TraceRequest, context_tokens: int) -> list[PromptTokens]:
    check_writable(request.out)
    chosen = [prompt for prompt in read_prompts(request.prompts) if not prompt.only_train]
    return list(tokenize(chosen, model.open_tokenizer(), context_tokens))


def _progress(observer: Observer) -> Callable[[int, int], None]:
    return lambda done, total: observer.progress(done / total)


def open_local(target: Target, runner: str | None, threads: int, observer: Observer) -> TokenModel:
    """The target as something that continues prompts here: our compiled program, or transformers' model."""
    if runner is None:
        needed, free = compile_bytes(target.shape, Precision.FP32, target.numerics.context_tokens), available_bytes()
        if needed > free:
            observer.note(
                f"{target.id} runs in transformers: compiling it takes {needed / 2**30:.1f} GiB of memory, and "
                f"{free / 2**30:.1f} GiB are free"
            )
            runner = "transformers"
    if runner == "transformers":
        from autotune.transformers_model import TransformersModel

        return TransformersModel(target, threads)
    return open_session(compile_target(target, "onnxruntime"), threads)
