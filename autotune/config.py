"""What a user asks of a run: flags, the TOML file and the Python API all end in one validated `TuneConfig`."""

import re
import tomllib
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    WithJsonSchema,
)

from autotune.candidate import Precision
from autotune.config_types import Batches, Count, Duration, Names, Precisions, Size, Weights
from autotune.endpoint.address import is_url
from autotune.errors import BadRequest, did_you_mean, unknown_name
from autotune.proxy.base import ESTIMATORS, find_estimator
from autotune.proxy.loss_choice import Loss
from autotune.sampling import SamplingSettings
from autotune.search_space.space import Ranges

_QUOTED = re.compile(r"'([^']*)'")


def _text(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _known_proxy(name: str) -> str:
    try:
        find_estimator(name)
    except BadRequest as error:
        raise ValueError(str(error)) from None
    return name


class TuneConfig(BaseModel):
    """Everything that defines a run.  Durations may be written `30s` or `1h30m`, sizes `2GiB`, counts `2M`."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    target: str = "demo"
    source: str | None = None
    """Checkpoint that drafts are cut from; the target itself if None."""
    download: bool = False
    """Whether weights that are not here may be downloaded."""
    context: int | None = Field(None, ge=1)
    """Positions of every cache; latencies are measured at its end.  If None, caches hold the models' context and
    latencies are measured behind a usual text."""
    batch: Batches = (1,)
    """Numbers of sequences decoded at once that a lookahead is scheduled for."""
    strict: bool = False
    """Whether evidence that is missing is an error: see `autotune.request`."""
    out: Path = Path("autotune-run")
    trials: int = Field(64, ge=1)
    """Most builds (distinct shapes on a backend at a precision) to evaluate."""
    time_budget: Duration = 600.0
    """Seconds after which no further build is begun."""
    screen: bool = True
    """Whether builds that would not move the Pareto front, by the latencies measured so far, are not compiled."""
    refine: bool = True
    """Whether the search scores builds on a part of the estimation traces, where these are enough to be divided, and
    afterwards only those that matter on more (see `autotune.refine`)."""
    model_free: bool = True
    """Whether drafters without a model take part: their acceptance follows from the traces at no cost."""
    sampler: Literal["auto", "tpe", "nsga2", "gp", "random"] = "auto"
    """Who proposes the next build: see `autotune.samplers`; `auto` is the one found best there."""

    layers: str | None = None
    heads: str | None = None
    kv_heads: str | None = None
    ffn: str | None = None
    hidden: str | None = None
    draft_vocab: str | None = None
    """Tokens that a draft's head covers: `full`, sizes, or both, with commas."""
    lookahead: str = "0:8"
    precision: Precisions | None = None
    """Of drafts; what usually pays on the device if None (see `autotune.precisions`)."""
    target_precision: Precision | None = None
    """What the target is compiled in; fp32 if None, or fp16 where its backend has no fp32 on the device."""
    target_tp: int = Field(1, ge=1)
    """Devices that the target is split over (tensor parallel); its latency is then extrapolated from one part."""
    collective_latency: Duration | None = Field(None, ge=0)
    """Seconds of one all-reduce of `[n, hidden]` among them; measured, where there are as many GPUs, if None."""
    target_latency: Path | None = None
    """A file of the user's with the target's latencies (see `autotune.latency_file`), instead of measuring them."""
    backend: Names = ("onnxruntime", "tvm")
    """Compilers of the drafts; of these defaults only those that can be used here."""
    target_backend: str | None = None
    """Compiler of the target; if None, the one of `backend` with which a token takes least, alone or drafted, or the
    first of them where the target is not here, or is to run on a GPU."""
    device: str = "cpu"

    temperature: float = Field(0.0, ge=0.0, le=100.0)
    top_k: int = Field(0, ge=0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    prompts: str = "builtin"
    traces: Annotated[str | None, BeforeValidator(_text)] = None
    """Recorded traces: a file, or the URL of a server of the target that is to record them."""
    model: str | None = None
    """The target's name at that URL; the only model served there if None."""
    api_key: SecretStr | None = Field(None, exclude=True)
    """The server's key, if the environment does not hold it."""
    max_new_tokens: int = Field(64, ge=1)

    objective: Literal["mean", "worst", "weighted"] = "mean"
    """How the categories of the workload count in what is maximised (see `autotune.objective`)."""
    category_weights: Weights | None = None
    """Categories' shares of the tokens of one's traffic, in any unit, for the weighted objective: `code=2,chat=1`, or a
    table in TOML.  Categories that are not named count for nothing."""

    max_memory: Size | None = Field(None, gt=0)
    max_parameters: Count | None = Field(None, ge=1)
    max_latency: Duration | None = Field(None, gt=0)

    proxy: Annotated[str, AfterValidator(_known_proxy), WithJsonSchema({"enum": list(ESTIMATORS)})] = "elastic"
    """What gives candidates their weights (see `autotune.proxy.base.ESTIMATORS`)."""
    elastic_budget: Duration = 120.0
    """Reference seconds of the training that all candidates of the elastic proxy share."""
    recover_tokens: Count = Field(131_072, ge=0)
    """Training tokens of each candidate, with proxies that train candidates one by one (recovered, learned-mask)."""
    finish: Duration = 30.0
    loss: Literal["auto", "ce", "kl", "tv", "log", "sharp", "ce+kl", "ce+tv", "kl+tv"] = "auto"
    """What trainings of drafts minimise; `auto`: what was measured to be best for such a workload."""
    validate_top: int = Field(3, ge=1, alias="validate")
    tune_kernels: Duration = 0.0
    """Most time for tuning the kernels of a winner compiled by TVM; 0: they are not tuned."""
    adaptive_k: bool = False
    """Whether the winner is also tried with a lookahead chosen round by round (see `autotune.stopping`)."""
    seed: int = Field(0, ge=0, lt=1 << 31)
    threads: int | None = Field(None, ge=1)
    """Threads of every program; chosen by measuring the target if None."""
    train_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the proxy and the finish train; `auto`: on CUDA where torch can use it (in bf16, weights in fp32)."""
    train_processes: int | None = Field(None, ge=1, le=1024)
    """Processes that share every training step; if None, one on the CPU, on CUDA one for each GPU.  On the CPU they
    share `threads`, which is one for trainings unless it is given."""
    build_timeout: Duration = Field(120.0, gt=0)
    run_timeout: Duration = Field(60.0, gt=0)
    worker_memory: Size | None = Field(None, gt=0)
    """Most memory a build or measurement may take; half of the machine's (or of its container's) if None."""
    database: bool = True
    """Whether to use what earlier runs measured, and to keep what this one measures (see `autotune db`)."""
    resume: bool = False

    @property
    def sampling(self) -> SamplingSettings:
        """How tokens are drawn."""
        return SamplingSettings(self.temperature, self.top_k, self.top_p)

    @property
    def traces_file(self) -> Path | None:
        """The file of recorded traces, if that is what `traces` names."""
        return None if self.traces is None or is_url(self.traces) else Path(self.traces)

    @property
    def traces_url(self) -> str | None:
        """The URL of the server that records traces, if that is what `traces` names."""
        return self.traces if self.traces is not None and is_url(self.traces) else None

    @property
    def chosen_loss(self) -> Loss | None:
        """What trainings of drafts minimise; None: the best for the traces."""
        return None if self.loss == "auto" else Loss(self.loss)

    @property
    def ranges(self) -> Ranges:
        """The ranges of the search as written."""
        return Ranges(self.layers, self.heads, self.kv_heads, self.ffn, self.hidden, self.lookahead, self.draft_vocab)


def make_config(flags: Mapping[str, Any], file: Path | None = None) -> TuneConfig:
    """The configuration of flags over file over defaults; BadRequest names the key that is unknown or wrong.

    `flags` maps names (dashes or underscores) to values; None means not given.
    """
    given = {name.replace("-", "_"): value for name, value in flags.items() if value is not None}
    values = ({} if file is None else _read_toml(file)) | given
    try:
        return TuneConfig.model_validate(values)
    except ValidationError as error:
        raise BadRequest(_explain(error, given, file)) from None


def key_names() -> list[str]:
    """The keys of the configuration as users write them, in the order of the class."""
    return [(field.alias or name).replace("_", "-") for name, field in TuneConfig.model_fields.items()]


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        return {name.replace("-", "_"): value for name, value in tomllib.loads(text).items()}
    except FileNotFoundError:
        raise BadRequest(f"configuration file {file} does not exist") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadRequest(f"configuration file {file} cannot be read: {error}") from None


def _explain(error: ValidationError, flags: Container[str], file: Path | None) -> str:
    """One line for the first fault of a configuration: where it was written, what is wrong, what was probably meant."""
    fault = error.errors()[0]
    key = str(fault["loc"][0]) if fault["loc"] else "configuration"
    name, written = key.replace("_", "-"), fault["input"]
    in_file = file is not None and key not in flags
    if fault["type"] == "extra_forbidden":
        unknown = unknown_name("configuration key", name, sorted(key_names()))
        return f"{file}: {unknown}" if in_file else str(unknown)
    where = f"{file}: {name} = {written!r}" if in_file else f"--{name} {written}"
    if fault["type"] in ("literal_error", "enum"):
        choices = _QUOTED.findall(fault["ctx"]["expected"])
        near = did_you_mean(str(written), choices)
        return f"{where}: {near + ' ' if near else ''}choose from: {', '.join(choices)}"
    return f"{where}: {fault['msg'].removeprefix('Value error, ')}"
