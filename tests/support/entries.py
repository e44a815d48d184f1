"""Entries for the tuning database, of this machine and these versions unless told otherwise."""

from dataclasses import replace

from autotune.candidate import DraftShape, Precision
from autotune.database.entries import Entry, KnownBurst
from autotune.database.subjects import (
    AcceptanceSubject,
    BurstSubject,
    SliceSubject,
    TargetSubject,
    acceptance_versions,
    latency_versions,
    slice_versions,
)
from autotune.devices import find_device
from autotune.results import Built, Evidence, LatencyTable
from autotune.sampling import SamplingSettings
from tests.support.figures import SETTINGS, SHAPE, constant_acceptance, latency, target_latency
from tests.support.models import NUMERICS

LOOKAHEADS = 3
DATE = "2026-01-02T03:04:05Z"


def burst_subject(layers: int = 2, backend: str = "onnxruntime", **changes: object) -> BurstSubject:
    subject = BurstSubject(
        shape=replace(SHAPE, layers=layers),
        numerics=NUMERICS,
        backend=backend,
        precision=Precision.FP32,
        device=find_device("cpu").fingerprint,
        capacity_tokens=128,
        max_lookahead=LOOKAHEADS,
        measuring=SETTINGS,
        sampling=SamplingSettings(),
        versions=latency_versions("onnxruntime"),
    )
    return replace(subject, **changes)  # type: ignore[arg-type]


def table_of(device: str, step_s: float = 0.001, rows: int = LOOKAHEADS) -> LatencyTable:
    return replace(latency(*(step_s * n for n in range(1, rows + 1))), device=device)


def burst_entry(
    layers: int = 2, *, step_s: float = 0.001, created: str = DATE, backend: str = "onnxruntime", **changes: object
) -> Entry:
    subject = burst_subject(layers, backend, **changes)
    return Entry(subject, KnownBurst(Built("", 0.5, 1000), table_of(subject.device, step_s)), created)


def target_entry(created: str = DATE) -> Entry:
    device = find_device("cpu").fingerprint
    subject = TargetSubject(
        target="f" * 64,
        shape=SHAPE,
        backend="onnxruntime",
        precision=Precision.FP32,
        device=device,
        capacity_tokens=128,
        max_lookahead=LOOKAHEADS,
        small_draft=replace(SHAPE, layers=1),
        thread_counts=(1, 2),
        measuring=SETTINGS,
        sampling=SamplingSettings(),
        versions=latency_versions("onnxruntime"),
    )
    known = target_latency(LOOKAHEADS)
    return Entry(subject, replace(known, verify=replace(known.verify, device=device)), created)


def slice_entry(created: str = DATE) -> Entry:
    device = find_device("cpu").fingerprint
    subject = SliceSubject(
        shape=SHAPE,
        numerics=NUMERICS,
        backend="onnxruntime",
        precision=Precision.FP32,
        device=device,
        max_lookahead=LOOKAHEADS,
        contexts=(1024,),
        thread_counts=(1, 2),
        parallel_degree=1,
        collective_s=0.0,
        measuring=SETTINGS,
        sampling=SamplingSettings(),
        versions=slice_versions("onnxruntime"),
    )
    known = target_latency(LOOKAHEADS)
    verify = replace(known.verify, device=device, evidence=Evidence.EXTRAPOLATED)
    return Entry(subject, replace(known, verify=verify, source="slices", by_context={1024: verify}), created)


def acceptance_entry(kept: float = 0.5, created: str = DATE, shape: DraftShape = SHAPE) -> Entry:
    subject = AcceptanceSubject(
        shape=shape,
        precision=Precision.INT8,
        weights="a" * 64,
        traces="b" * 64,
        max_lookahead=LOOKAHEADS,
        versions=acceptance_versions(),
    )
    return Entry(subject, constant_acceptance(kept, LOOKAHEADS), created)


def all_kinds() -> list[Entry]:
    return [burst_entry(), target_entry(), acceptance_entry()]
