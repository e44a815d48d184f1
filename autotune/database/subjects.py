"""What a stored number depends on: two numbers with equal subjects may stand for each other (the key is a hash of it).

A latency depends on the code that compiles, runs and measures, so versions hold the packages' and a digest of our own
sources.  It does not depend on the weights' values (see `weights.random_weights`), so they are left out: a run on
another workload, whose drafts have other weights of the same shapes, finds the latencies all the same.
"""

from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from autotune.cache import content_key, source_digest
from autotune.candidate import DraftShape, Precision
from autotune.compile.base import find_backend
from autotune.digests import digest_of
from autotune.provenance import package_versions
from autotune.results import MeasureSettings
from autotune.sampling import SamplingSettings
from autotune.traces import Traces
from autotune.weights import Numerics

_LATENCY_SOURCES = (
    "autotune.compile",
    "autotune.runtime",
    "autotune.extrapolation",
    "autotune.measure",
    "autotune.program",
    "autotune.quantization",
    "autotune.sampling",
    "autotune.tvm_import",
    "autotune.tvm_layout",
)
_SLICE_SOURCES = ("autotune.slices", "autotune.slice_job", "autotune.tensor_parallel")
_ACCEPTANCE_SOURCES = ("autotune.proxy", "autotune.acceptance", "autotune.quantization", "autotune.sampling")


@dataclass(frozen=True)
class BurstSubject:
    """A draft program's burst latencies."""

    shape: DraftShape
    numerics: Numerics
    backend: str
    precision: Precision
    device: str
    """Fingerprint of the device."""
    capacity_tokens: int
    max_lookahead: int
    measuring: MeasureSettings
    sampling: SamplingSettings
    versions: dict[str, str]
    kind: Literal["burst"] = "burst"


@dataclass(frozen=True)
class TargetSubject:
    """A target program's side of a round, with the number of threads that suits it best."""

    target: str
    """Fingerprint of the target."""
    shape: DraftShape
    backend: str
    precision: Precision
    device: str
    """Fingerprint of the device."""
    capacity_tokens: int
    max_lookahead: int
    small_draft: DraftShape
    """What the decoding loop was measured with."""
    thread_counts: tuple[int, ...]
    """The numbers of threads that were tried."""
    measuring: MeasureSettings
    """As they were before the threads were chosen."""
    sampling: SamplingSettings
    versions: dict[str, str]
    kind: Literal["target"] = "target"


@dataclass(frozen=True)
class SliceSubject:
    """A target's side of a round, extrapolated from slices of it."""

    shape: DraftShape
    numerics: Numerics
    backend: str
    precision: Precision
    device: str
    """Fingerprint of the device."""
    max_lookahead: int
    contexts: tuple[int, ...]
    """Beside the one that `measuring` names."""
    thread_counts: tuple[int, ...]
    """The numbers of threads that were tried."""
    parallel_degree: int
    collective_s: float
    measuring: MeasureSettings
    """As they were before the threads were chosen."""
    sampling: SamplingSettings
    versions: dict[str, str]
    slicing: str | None = None
    """How it was to be sliced; None: as memory allows."""
    kind: Literal["slices"] = "slices"


@dataclass(frozen=True)
class AcceptanceSubject:
    """How often a draft's tokens are accepted; no device: it is arithmetic on weights and traces."""

    shape: DraftShape
    precision: Precision
    weights: str
    """`weights_digest` of the draft before its precision rounds it."""
    traces: str
    """`traces_digest` of the estimation split."""
    max_lookahead: int
    versions: dict[str, str]
    kind: Literal["acceptance"] = "acceptance"


Subject = BurstSubject | TargetSubject | SliceSubject | AcceptanceSubject

_SUBJECT: TypeAdapter[Subject] = TypeAdapter(Annotated[Subject, Field(discriminator="kind")])


def subject_json(subject: Subject) -> dict[str, Any]:
    """The subject as JSON; what is None is left out, so that a new optional field changes no key."""
    dumped: dict[str, Any] = _SUBJECT.dump_python(subject, mode="json", exclude_none=True)
    return dumped


def parse_subject(fields: object) -> Subject:
    """The subject that `subject_json` wrote; pydantic's ValidationError if it is none."""
    return _SUBJECT.validate_python(fields)


def subject_key(subject: Subject) -> str:
    """The database key of what is known about a subject."""
    return content_key(subject_json(subject))


@cache
def _latency_versions(backend: str) -> dict[str, str]:
    packages = package_versions([*find_backend(backend).distributions, "numpy"])
    return packages | {"sources": source_digest(_LATENCY_SOURCES)}


def latency_versions(backend: str) -> dict[str, str]:
    """Versions of everything that shapes how fast the backend's programs are; BadRequest if it is unknown."""
    return dict(_latency_versions(backend))


@cache
def _slice_versions(backend: str) -> dict[str, str]:
    return _latency_versions(backend) | {"slices": source_digest(_SLICE_SOURCES)}


def slice_versions(backend: str) -> dict[str, str]:
    """As `latency_versions`, and of what slices models."""
    return dict(_slice_versions(backend))


@cache
def _acceptance_versions() -> dict[str, str]:
    return package_versions(["numpy", "torch"]) | {"sources": source_digest(_ACCEPTANCE_SOURCES)}


def acceptance_versions() -> dict[str, str]:
    """Versions of everything that shapes an estimate of acceptance."""
    return dict(_acceptance_versions())


def traces_digest(traces: Traces) -> str:
    """A hash of everything in traces that scoring a draft reads."""
    arrays = (array for trace in traces.items for array in (trace.prompt, trace.continuation, trace.logprobs))
    return digest_of(chain([content_key(vars(traces.settings))], arrays))
