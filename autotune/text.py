"""The target's text, and the drafts that are trained on it: what acceptance is estimated from."""

from dataclasses import dataclass
from pathlib import Path

from autotune.cache import cache_root, content_key, source_hashes
from autotune.memory import check_memory, source_bytes
from autotune.progress import Observer
from autotune.proxy.base import Estimator, Preparation, prepare_estimator
from autotune.proxy.parts import budget_tokens, mean_parameters
from autotune.recording import Recorder, WorkloadTraces
from autotune.request import Request, search_axes
from autotune.runtime.session import open_session
from autotune.traces import Traces
from autotune.vocabulary import TrimmingEstimator, rank_tokens

TRACED_SHARE = 0.1
"""Distinct continuation tokens to record for training, as a share of the training tokens."""


@dataclass(frozen=True)
class Text:
    """A target's traces and the estimator that was trained on them."""

    traces: WorkloadTraces
    estimator: TrimmingEstimator


def prepare_text(
    request: Request, program: Path | None, threads: int, observer: Observer, whose: str = "the target's"
) -> Text:
    """The text of a request's target; program: the target's, None where it is served; whose: to tell what is done."""
    recorded = program is not None or request.cast.endpoint is not None
    observer.phase(f"{'Recording' if recorded else 'Reading'} {whose} traces")
    traces = record_workload(request, program, threads, observer)
    target = request.text_target
    vocabulary = rank_tokens(traces.train, target.shape.vocab, target.eos_ids)
    return Text(traces, TrimmingEstimator(train_estimator(request, traces.train, observer), vocabulary))


def record_workload(request: Request, program: Path | None, threads: int, observer: Observer) -> WorkloadTraces:
    """The run's traces, from the user's file, the cache, or the target itself."""
    config = request.config
    recorder = Recorder(
        target=request.text_target,
        settings=config.sampling,
        max_new_tokens=config.max_new_tokens,
        context_tokens=request.context_tokens,
        seed=config.seed,
        open_model=None if program is None else (lambda: open_session(program, threads)),
        endpoint=request.cast.endpoint,
        on_progress=lambda done, total: observer.progress(done / total),
        computed_by=f"{request.device.kind} {request.target_precision}",
    )
    can_record = program is not None or request.cast.endpoint is not None
    wanted = int(training_tokens(request) * TRACED_SHARE) if can_record else 0
    if request.cast.recorded is not None:
        return recorder.from_file(request.cast.recorded, wanted)
    return recorder.from_prompts(config.prompts, wanted)


def train_estimator(request: Request, traces: Traces, observer: Observer) -> Estimator:
    """The estimator the run asked for; a training that was done before, or begun, is taken up."""
    config = request.config
    axes = search_axes(request.space)
    key = content_key(
        config.proxy,
        request.whole_source.fingerprint,
        [trace.tokens.tolist() for trace in traces.items],
        vars(traces.settings),
        vars(axes),
        config.elastic_budget,
        config.seed,
        source_hashes("autotune.proxy"),
    )
    check_memory(
        source_bytes(request.source.shape, config.proxy == "elastic"), f"cutting drafts from {request.source.id}"
    )
    observer.phase("Training the elastic source" if config.proxy == "elastic" else "Preparing the pruned proxy")
    preparation = Preparation(
        source=request.whole_source.read_weights(),
        traces=traces,
        axes=axes,
        budget_s=config.elastic_budget,
        folder=cache_root() / "proxies" / key,
        seed=config.seed,
        threads=request.training_threads,
        on_progress=observer.progress,
    )
    return prepare_estimator(config.proxy, preparation)


def training_tokens(request: Request) -> int:
    """Training tokens the proxy's budget buys; 0 where it does not train."""
    if request.config.proxy != "elastic":
        return 0
    parameters = mean_parameters(request.source.shape, search_axes(request.space))
    return budget_tokens(request.config.elastic_budget, parameters)
