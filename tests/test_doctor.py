import json
from pathlib import Path

import pytest

from autotune import devices, doctor
from autotune.cuda_driver import CudaDriver
from autotune.errors import BadRequest
from tests.support.fake_cuda import FakeCuda


@pytest.fixture(autouse=True)
def small_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "entry").write_bytes(b"x" * 1000)
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pretend(monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], required: list[str]) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise doctor.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor, "requires", lambda name: required)


def test_describes_this_machine(small_cache: Path) -> None:
    diagnosis = doctor.examine()

    cpu, *gpus = diagnosis.devices
    assert cpu.kind == "cpu"
    assert cpu.reason is None
    assert (cpu.cores or 0) >= 1
    assert (cpu.memory_bytes or 0) > 2**28
    assert all(gpu.kind == "cuda" for gpu in gpus)
    assert {backend.name for backend in diagnosis.backends} >= {"onnxruntime"}
    assert diagnosis.cache == small_cache
    assert diagnosis.cache_bytes == 1000
    assert diagnosis.free_bytes > 0
    assert diagnosis.python.split()[1].startswith("3.")


def test_missing_and_unfit_packages_are_problems_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(
        monkeypatch,
        installed={"draft-autotune": "0.1.0", "torch": "3.0"},
        required=["torch<2.14,>=2.11", "numpy>=2.0", "pytest; extra == 'dev'", "other; python_version < '3'"],
    )
    diagnosis = doctor.examine()

    assert [(package.name, package.fits) for package in diagnosis.packages] == [("torch", False), ("numpy", False)]
    assert any("torch<2.14,>=2.11 is required, but 3.0 is installed: pip" in each for each in diagnosis.problems)
    assert any("numpy>=2.0 is required, but it is not installed: pip" in each for each in diagnosis.problems)


def test_two_onnxruntimes_are_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"draft-autotune": "0.1.0", "onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"}
    pretend(monkeypatch, installed, required=["onnxruntime-gpu>=1.24"])

    (problem,) = doctor.examine().problems
    assert problem.startswith("onnxruntime and onnxruntime-gpu are both installed")
    assert "pip uninstall" in problem


def test_uninstalled_checkout_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> str:
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", not_installed)
    monkeypatch.setattr(doctor, "requires", not_installed)
    diagnosis = doctor.examine()

    assert diagnosis.version is None
    assert diagnosis.packages == ()
    assert "is not installed" in diagnosis.problems[0]


def test_unusable_backend_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def unusable(name: str) -> None:
        raise BadRequest(f"backend {name} cannot be used here: no compiler; install one")

    monkeypatch.setattr(doctor, "load_backend", unusable)
    diagnosis = doctor.examine()

    assert diagnosis.backends[0].reason == "backend onnxruntime cannot be used here: no compiler; install one"
    assert diagnosis.backends[0].reason in diagnosis.problems


@pytest.mark.parametrize(
    ("providers", "reason"),
    [
        (["CUDAExecutionProvider", "CPUExecutionProvider"], None),
        (["CPUExecutionProvider"], "has no CUDA provider"),
    ],
)
def test_gpu_counts_only_with_a_provider(
    monkeypatch: pytest.MonkeyPatch, providers: list[str], reason: str | None
) -> None:
    monkeypatch.setattr(devices, "CudaDriver", lambda: CudaDriver(FakeCuda(["Example GPU 80GB"])))
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)
    diagnosis = doctor.examine()
    gpu = diagnosis.devices[1]

    assert (gpu.kind, gpu.name, gpu.cores) == ("cuda", "Example GPU 80GB", 132)
    assert (gpu.reason is None) if reason is None else (reason in (gpu.reason or ""))
    assert "cuda: Example GPU 80GB, 132 multiprocessors, 80.0 GiB, sm_90" in doctor.describe(diagnosis)


def test_a_driver_without_a_gpu_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "CudaDriver", lambda: CudaDriver(FakeCuda([])))
    gpu = doctor.examine().devices[1]
    assert (gpu.kind, gpu.name) == ("cuda", "none")
    assert "the NVIDIA driver finds no GPU" in (gpu.reason or "")


def test_description_names_problems_and_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = doctor.describe(doctor.examine())
    pretend(monkeypatch, installed={}, required=["numpy>=2.0"])
    ill = doctor.examine()

    assert "Devices\n  + cpu: " in healthy
    assert "  + onnxruntime\n" in healthy
    assert "  - numpy missing (>=2.0)" in doctor.describe(ill)
    assert "Problem: numpy>=2.0 is required" in doctor.describe(ill)
    assert json.loads(doctor.describe(ill, as_json=True))["problems"] == list(ill.problems)
