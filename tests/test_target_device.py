"""How the device, and what the target is compiled in, go from a request to the artifact and back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune import devices, measure
from autotune.artifact import read_manifest
from autotune.bench import BenchRequest, bench_artifact, check_lossless
from autotune.candidate import DraftShape, Precision
from autotune.compile.base import CompileSettings, build_program
from autotune.config import make_config
from autotune.contest import differs_at_near_tie
from autotune.cuda_driver import CudaDriver, CudaUnavailable
from autotune.devices import find_device
from autotune.errors import ArtifactError, BadRequest
from autotune.measure import BurstRequest, foreign_reader, measure_bursts
from autotune.pair import Pair
from autotune.program import Program
from autotune.programs import compile_target
from autotune.request import Request, resolve
from autotune.results import LatencyTable, MeasureSettings, TargetLatency
from autotune.runtime import session
from autotune.sampling import SamplingSettings
from autotune.target_side import draft_measuring, target_measuring, thread_counts
from autotune.targets import resolve_target
from tests.support.artifacts import artifact_of_demo
from tests.support.fake_cuda import FakeCuda
from tests.support.models import tiny_weights
from tests.support.ort_on_cpu import OrtOnCpu


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A GPU that the driver tells of; programs for it run on the CPU, as `OrtOnCpu`."""
    library = FakeCuda()
    monkeypatch.setattr(devices, "CudaDriver", lambda: CudaDriver(library))
    monkeypatch.setattr(measure, "CudaDriver", lambda: CudaDriver(library))
    entry = f"{OrtOnCpu.__module__}:{OrtOnCpu.__name__}"
    monkeypatch.setattr(session, "SESSIONS", {"onnxruntime": {**session.SESSIONS["onnxruntime"], "cuda": entry}})
    return library


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> CudaDriver:
        raise CudaUnavailable("the NVIDIA driver finds no GPU")

    monkeypatch.setattr(devices, "CudaDriver", missing)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact_of_demo(
        tmp_path_factory.mktemp("artifact") / "artifact", layers=1, device="cuda", precision=Precision.FP16
    )


def cuda_request(**flags: object) -> Request:
    return resolve(make_config({"device": "cuda", "elastic_budget": "5s", "finish": 0, **flags}))


@pytest.mark.usefixtures("gpu")
def test_a_target_is_compiled_once_per_device_and_precision(tiny_checkpoint: Path) -> None:
    target = resolve_target(str(tiny_checkpoint))
    cpu = compile_target(target, "onnxruntime")
    half = compile_target(target, "onnxruntime", device="cuda", precision=Precision.FP16)
    brain = compile_target(target, "onnxruntime", device="cuda", precision=Precision.BF16)
    assert len({cpu, half, brain}) == 3
    made = (half / "program.json").stat().st_mtime_ns
    assert compile_target(target, "onnxruntime", device="cuda", precision=Precision.FP16) == half
    assert (half / "program.json").stat().st_mtime_ns == made
    kinds = [(Program.read(each).device, Program.read(each).precision) for each in (cpu, half, brain)]
    assert kinds == [("cpu", Precision.FP32), ("cuda", Precision.FP16), ("cuda", Precision.BF16)]


@pytest.mark.usefixtures("gpu")
def test_a_gpu_has_its_own_defaults() -> None:
    request = cuda_request()
    assert (request.device.kind, request.precision) == ("cuda", (Precision.FP16,))
    assert request.target_precision is Precision.FP16
    assert request.space.precisions == (Precision.FP16,)
    asked = cuda_request(target_precision="bf16", precision="bf16,int4")
    assert (asked.target_precision, asked.precision) == (Precision.BF16, (Precision.BF16, Precision.INT4))
    assert asked.identity()["target_precision"] == "bf16"
    assert asked.identity() != request.identity()


@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_that_is_missing_is_refused_before_anything_is_written() -> None:
    with pytest.raises(BadRequest, match="--device cuda: the NVIDIA driver finds no GPU; use --device cpu"):
        cuda_request()


@pytest.mark.usefixtures("gpu")
def test_threads_are_the_processors_concern() -> None:
    request = cuda_request()
    assert thread_counts(request.config, request.device) == (1,)
    assert len(thread_counts(request.config, replace(request.device, kind="cpu"))) > 1


@pytest.mark.usefixtures("gpu")
def test_between_samples_as_many_bytes_are_read_as_the_other_model_has() -> None:
    request = cuda_request()
    settings = target_measuring(request)
    assert settings.evict_bytes == request.space.smallest.decode_parameters * 2
    latency = TargetLatency(LatencyTable(((1.0,),), settings, "cuda"), 0.0, 0.0)
    target = request.target
    assert draft_measuring(request, latency).evict_bytes == target.shape.decode_parameters * 2
    exact = replace(request, target_precision=Precision.FP32)
    assert draft_measuring(exact, latency).evict_bytes == target.shape.decode_parameters * 4


def test_foreign_memory_is_the_devices(gpu: FakeCuda) -> None:
    assert foreign_reader("cpu", 800)() == 100.0
    assert not gpu.calls
    assert foreign_reader("cuda", 0)() == 0.0
    assert not gpu.calls
    foreign_reader("cuda", 801)()
    assert [size for _, _, size in gpu.copied] == [401]  # read once and written once


@pytest.mark.usefixtures("no_gpu")
def test_an_artifact_for_a_gpu_is_refused_without_one_in_one_line(artifact: Path) -> None:
    message = "was compiled for cuda, which cannot be used here: the NVIDIA driver finds no GPU; open it on"
    with pytest.raises(ArtifactError, match=message):
        Pair.open(artifact)
    for use in (bench_artifact, check_lossless):
        with pytest.raises(ArtifactError, match=message):
            use(BenchRequest(artifact))


@pytest.mark.usefixtures("gpu")
def test_a_pair_compiles_its_target_as_it_was_when_measured(artifact: Path) -> None:
    assert read_manifest(artifact).target.precision is Precision.FP16
    with Pair.open(artifact) as pair:
        target = pair.decoder.target.program
        assert (target.device, target.precision) == ("cuda", Precision.FP16)
        prompt = pair.tokenizer.encode("def add(a, b):")
        speculative = list(pair.generate(prompt, 16).tokens)
        alone = list(pair.alone().generate(prompt, 16).tokens)
        assert len(speculative) == 16
        assert differs_at_near_tie(pair.decoder.target, tuple(prompt), alone, speculative) is not False


def test_a_processors_fp32_target_remains_the_default(tmp_path: Path) -> None:
    target = read_manifest(artifact_of_demo(tmp_path / "artifact", layers=1)).target
    assert (target.device, target.precision) == ("cpu", Precision.FP32)
    request = resolve(make_config({"elastic_budget": "5s", "finish": 0}))
    assert (request.precision, request.target_precision) == ((Precision.FP32, Precision.INT8), Precision.FP32)


@pytest.mark.usefixtures("gpu")
def test_measurements_name_the_gpu(tmp_path: Path) -> None:
    shape = DraftShape(1, 2, 2, 16, 32, 48, 64)
    build_program("onnxruntime", tiny_weights(shape), CompileSettings(Precision.FP16, 32, "cuda", 2), tmp_path)
    opened = session.open_session(tmp_path, threads=1)
    settings = MeasureSettings(8, 1, min_time_s=0.0, min_samples=3, evict_bytes=4096)
    table = measure_bursts(opened, BurstRequest(str(tmp_path), 2, settings, SamplingSettings()))
    assert table.device == find_device("cuda").fingerprint
    assert np.all(np.array(table.samples_s) > 0)
