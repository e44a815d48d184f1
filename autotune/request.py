"""What a configuration asks for, resolved against this machine: which kind of run it is, and what is searched."""

from dataclasses import dataclass, replace
from typing import Literal

from autotune.backends import (
    check_batches,
    check_kernel_tuning,
    target_backends,
    target_compilers,
    with_usable_backends,
)
from autotune.cache import content_key
from autotune.candidate import DraftShape, Precision
from autotune.cast import Cast, find_cast
from autotune.collective import check_collective
from autotune.compile.base import load_backend
from autotune.config import TuneConfig
from autotune.devices import Device, find_device
from autotune.errors import BadRequest, MissingEvidence
from autotune.latency_file import read_target_latency
from autotune.objective import MEAN, Objective
from autotune.objective_request import find_objective
from autotune.precisions import draft_precisions, target_precision
from autotune.presets import presets
from autotune.proxy.base import Axes
from autotune.proxy.budgets import check_proxy_budget
from autotune.proxy.parts import budget_tokens, training_steps
from autotune.proxy.place import Place, find_place
from autotune.recording import workload_key
from autotune.results import RunKind, TargetLatency
from autotune.samplers import check_sampler
from autotune.search_space.space import SearchSpace, make_space
from autotune.targets import Blueprint, Target, TextModel
from autotune.tensor_parallel import shard
from autotune.vocabulary import check_draft_vocabularies

MOST_CONTEXT_TOKENS = 4096
"""Programs are compiled for the target's context, but for no more than this: their caches are preallocated."""

LatencySource = Literal["measured", "table", "slices"]


@dataclass(frozen=True)
class Request:
    """A configuration resolved against this machine: models, device and space exist and fit each other."""

    config: TuneConfig
    cast: Cast
    device: Device
    space: SearchSpace
    context_tokens: int
    workload: str
    """Content key of the prompts or traces."""
    precision: tuple[Precision, ...]
    """Of drafts."""
    target_precision: Precision
    target_backends: tuple[str, ...]
    """Compilers that the target's program may be of: several until they were measured."""
    table: TargetLatency | None = None
    """The target's latency as the user gave it with `--target-latency`."""
    objective: Objective = MEAN
    """How the categories of the workload count."""

    @property
    def kind(self) -> RunKind:
        """What the run can do."""
        return self.cast.kind

    @property
    def target(self) -> Blueprint:
        """The target, however much of it is here."""
        return self.cast.target

    @property
    def source(self) -> Blueprint:
        """What drafts are pruned from, however much of it is here."""
        return self.cast.source

    @property
    def whole_target(self) -> Target:
        """The target of a whole run."""
        assert isinstance(self.target, Target)
        return self.target

    @property
    def text_target(self) -> TextModel:
        """The target of a run that has its text: whole or served."""
        assert isinstance(self.target, TextModel)
        return self.target

    @property
    def whole_source(self) -> Target:
        """The source of a run that has its weights: whole or served."""
        assert isinstance(self.source, Target)
        return self.source

    @property
    def target_backend(self) -> str:
        """The compiler of the target's program."""
        return self.target_backends[0]

    @property
    def latency_source(self) -> LatencySource:
        """Where the target's latency comes from: its program, the user's table, or slices of it."""
        if self.kind is RunKind.WHOLE:
            return "measured"
        return "slices" if self.config.target_latency is None else "table"

    @property
    def training_threads(self) -> int:
        """Threads for training: what the user fixed, or one, so that equal runs train equal weights on any machine."""
        return self.config.threads or 1

    @property
    def training_place(self) -> Place:
        """Where the proxy and the finish train; BadRequest if this machine has no such place."""
        return find_place(self.config.train_device, self.config.train_processes, self.training_threads)

    def identity(self) -> dict[str, object]:
        """What makes it this run and no other; budgets may change when a run is resumed."""
        free = {
            "out",
            "trials",
            "time_budget",
            "resume",
            "validate_top",
            "finish",
            "tune_kernels",
            "adaptive_k",
            "worker_memory",
            "database",
            "download",
            "strict",
            "batch",
            "sampler",
        }
        asked = self.config.model_dump(mode="json", exclude=free)
        return asked | {
            "kind": self.kind.value,
            "target_fingerprint": _fingerprint(self.target),
            "source_fingerprint": _fingerprint(self.source),
            "device_fingerprint": self.device.fingerprint,
            "workload": self.workload,
            "precision": [precision.value for precision in self.precision],
            "target_precision": self.target_precision.value,
        }


def resolve(config: TuneConfig) -> Request:
    """The request behind a configuration; what can be refused is refused here, before anything is written."""
    device = find_device(config.device)
    cast = find_cast(config)
    config = with_usable_backends(config, device.kind)
    check_kernel_tuning(config)
    check_sampler(config.sampler)
    supported = {name: load_backend(name, device.kind).precisions(device.kind) for name in config.backend}
    precision = draft_precisions(config.precision, device.kind, supported, true_size=cast.kind is RunKind.PLAN)
    exact = target_precision(config.target_precision, device.kind, target_compilers(config, device.kind))
    check_batches(config, exact)
    rivals = target_backends(config, exact, whole=cast.kind is RunKind.WHOLE)
    source = cast.source.shape
    named = [draft.shape for draft in presets().drafts.values()]
    space = make_space(source, config.ranges, config.backend, precision, supported, named)
    if cast.kind is RunKind.PLAN:
        space = replace(space, named=(*space.named, space.deepest))
    check_draft_vocabularies(space.draft_vocab.values, _eos_ids(cast.target))
    context = _context_tokens(config, cast)
    if space.max_lookahead + 2 > context:
        raise BadRequest(f"--lookahead {config.lookahead}: such bursts do not fit into the context of {context} tokens")
    if isinstance(cast.target, TextModel):
        _check_budgets(config, source, search_axes(space))
        workload = workload_key(
            cast.target, config.sampling, config.prompts, cast.recorded, context_tokens=context, seed=config.seed
        )
    else:
        workload = "stand-in"
    objective = find_objective(config, cast.kind, cast.recorded)
    request = Request(config, cast, device, space, context, workload, precision, exact, rivals, objective=objective)
    if config.train_device == "cuda" or (config.train_processes or 1) > 1:
        _ = request.training_place  # refused now, not after the traces are recorded
    _check_latency_source(request)
    if config.strict:
        _check_evidence(request)
    if config.target_latency is None:
        return request
    return replace(request, table=read_target_latency(config.target_latency, space.lookahead.values))


def search_axes(space: SearchSpace) -> Axes:
    """The sub-shapes of the search, as the proxy's training knows them."""
    return Axes(space.layers.values, space.attention, space.ffn.values, space.hidden.values)


def _context_tokens(config: TuneConfig, cast: Cast) -> int:
    """Positions of every program's cache: as asked, or the models' context."""
    most = min(cast.target.numerics.context_tokens, cast.source.numerics.context_tokens)
    if config.context is None:
        return min(most, MOST_CONTEXT_TOKENS)
    if config.context > most:
        raise BadRequest(f"--context {config.context}: the models are made for {most} tokens at most")
    return config.context


def _check_latency_source(request: Request) -> None:
    """BadRequest where the target's latency was asked for in a way that this run does not take it."""
    config = request.config
    asked = {
        "--target-latency": config.target_latency is not None,
        "--target-tp": config.target_tp > 1,
        "--collective-latency": config.collective_latency is not None,
    }
    if request.kind is RunKind.WHOLE and any(asked.values()):
        flag = next(name for name, given in asked.items() if given)
        raise BadRequest(
            f"{flag}: the weights of {request.target.id} are here, so its latency is measured; leave {flag} out, or "
            "name a target whose weights are elsewhere"
        )
    if asked["--target-latency"] and asked["--target-tp"]:
        raise BadRequest("--target-tp splits what is extrapolated, and --target-latency gives the latency: choose one")
    if asked["--target-latency"] and max(config.batch) > 1:
        raise BadRequest("--batch: the table of --target-latency is of one sequence; leave one of the two out")
    shard(request.target.shape, config.target_tp)
    check_collective(config.target_tp, config.collective_latency, request.device.kind)


def _check_evidence(request: Request) -> None:
    """MissingEvidence, naming all that a run of this kind lacks, unless it can be measured and decoded to the end."""
    target = request.target.id
    missing = []
    if request.kind is RunKind.PLAN:
        missing.append(f"tokens per round would be a stand-in (there are no traces of {target})")
    if request.latency_source == "slices":
        missing.append("the target's latency would be extrapolated (give --target-latency)")
    if request.kind is not RunKind.WHOLE:
        missing.append(f"nothing would be validated by decoding (the weights of {target} are not here)")
    if missing:
        raise MissingEvidence(f"--strict: {'; '.join(missing)}")


def _check_budgets(config: TuneConfig, source: DraftShape, axes: Axes) -> None:
    """BadRequest if a training is asked for that could not make a single step."""
    check_proxy_budget(config.proxy, config.elastic_budget, config.recover_tokens, source, axes)
    if config.finish:
        parameters = source.decode_parameters
        training_steps(budget_tokens(config.finish, parameters), parameters, "--finish")


def _eos_ids(target: Blueprint) -> tuple[int, ...]:
    """The tokens that end a text; some single one where they are not known."""
    return target.eos_ids if isinstance(target, TextModel) else (0,)


def _fingerprint(model: Blueprint) -> str:
    """What identifies a model, by content where it is here and by architecture where it is not."""
    if isinstance(model, TextModel):
        return model.fingerprint
    return content_key(model.id, vars(model.shape), vars(model.numerics))
