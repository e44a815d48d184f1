"""The target's text, and the drafts that are trained on it: what acceptance is estimated from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from autotune.cache import cache_root, content_key, source_hashes
from autotune.memory import check_memory, source_bytes
from autotune.progress import Observer
from autotune.proxy.base import Estimator, Preparation, Training, find_estimator, prepare_estimator
from autotune.proxy.budgets import proxy_tokens
from autotune.proxy.lesson_digest import lesson_digest
from autotune.recording import Recorder, WorkloadTraces
from autotune.request import Request, search_axes
from autotune.runtime.session import open_session
from autotune.traces import Traces
from autotune.vocabulary import TrimmingEstimator, rank_tokens

TRACED_SHARES = {Training.NONE: 0.0, Training.SHARED: 0.1, Training.EACH: 1.0}
"""Distinct continuation tokens to record for training, as a share of the training tokens: a shared training is long and
goes through its text several times."""


@dataclass(frozen=True)
class Text:
    """A target's traces and the estimator that was trained on them."""

    traces: WorkloadTraces
    estimator: TrimmingEstimator
    cautions: list[str] = field(default_factory=list)
    """What must be said of the trainings, a sentence each; those of the finish are added when they are done."""


def prepare_text(
    request: Request, program: Path | None, threads: int, observer: Observer, whose: str = "the target's"
) -> Text:
    """The text of a request's target; program: the target's, None where it is served; whose: to tell what is done."""
    recorded = program is not None or request.cast.endpoint is not None
    observer.phase(f"{'Recording' if recorded else 'Reading'} {whose} traces")
    traces = record_workload(request, program, threads, observer)
    target = request.text_target
    vocabulary = rank_tokens(traces.train, target.shape.vocab, target.eos_ids)
    cautions: list[str] = []
    estimator = train_estimator(request, traces.train, observer, noting(cautions, observer))
    return Text(traces, TrimmingEstimator(estimator, vocabulary), cautions)


def noting(cautions: list[str], observer: Observer) -> Callable[[str], None]:
    """Tells the observer what must be said of a training, and keeps it for the report."""

    def note(text: str) -> None:
        observer.note(text)
        if text not in cautions:
            cautions.append(text)

    return note


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
    wanted = traced_tokens(request) if can_record else 0
    if request.cast.recorded is not None:
        return recorder.from_file(request.cast.recorded, wanted)
    return recorder.from_prompts(config.prompts, wanted)


def train_estimator(
    request: Request, traces: Traces, observer: Observer, on_note: Callable[[str], None] | None = None
) -> Estimator:
    """The estimator the run asked for; a training that was done before, or begun, is taken up."""
    config, place = request.config, request.training_place
    entry, axes = find_estimator(config.proxy), search_axes(request.space)
    budgets: dict[Training, tuple[object, ...]] = {
        Training.NONE: (),
        Training.SHARED: (vars(axes), config.elastic_budget),
        Training.EACH: (config.recover_tokens,),  # whatever else is searched, such a draft is the same
    }
    key = content_key(
        config.proxy,
        request.whole_source.fingerprint,
        lesson_digest(traces),
        vars(traces.settings),
        *budgets[entry.training],
        config.seed,
        place.device,
        place.processes,
        config.loss,
        source_hashes("autotune.proxy"),
    )
    here = place.processes if place.device == "cpu" else 1  # each has its own copy of all
    check_memory(
        here * source_bytes(request.source.shape, entry.source_copies), f"cutting drafts from {request.source.id}"
    )
    observer.phase(entry.title)
    preparation = Preparation(
        source=request.whole_source.read_weights(),
        traces=traces,
        axes=axes,
        budget_s=config.elastic_budget,
        candidate_tokens=config.recover_tokens,
        folder=cache_root() / "proxies" / key,
        seed=config.seed,
        place=place,
        loss=config.chosen_loss,
        on_phase=observer.phase,
        on_progress=observer.progress,
        on_note=on_note or observer.note,
    )
    return prepare_estimator(config.proxy, preparation)


def traced_tokens(request: Request) -> int:
    """Distinct continuation tokens to record for training, so that what trains sees enough that is new."""
    config = request.config
    tokens = proxy_tokens(
        config.proxy, config.elastic_budget, config.recover_tokens, request.source.shape, search_axes(request.space)
    )
    return int(tokens * TRACED_SHARES[find_estimator(config.proxy).training])
