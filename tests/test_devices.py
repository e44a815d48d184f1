from pathlib import Path

import pytest

from autotune import devices
from autotune.cuda_driver import CudaDriver, CudaUnavailable
from autotune.devices import check_compiled_for, device_lock, find_device
from autotune.errors import ArtifactError, BadRequest
from tests.support.fake_cuda import FakeCuda


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "CudaDriver", lambda: CudaDriver(FakeCuda()))


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> CudaDriver:
        raise CudaUnavailable("this machine has no NVIDIA driver (libcuda.so.1 cannot be loaded)")

    monkeypatch.setattr(devices, "CudaDriver", missing)


def test_the_processor_is_found() -> None:
    cpu = find_device("cpu")
    assert cpu.kind == "cpu"
    assert cpu.fingerprint.startswith(f"cpu:{cpu.name}:{cpu.cores} cores")


@pytest.mark.usefixtures("gpu")
def test_a_gpu_is_found_and_its_fingerprint_names_the_host_too() -> None:
    found = find_device("cuda")
    assert (found.kind, found.name, found.cores, found.memory_bytes) == ("cuda", "Example H1", 132, 80 << 30)
    host = find_device("cpu").name
    assert found.fingerprint == f"cuda:Example H1:132 multiprocessors:sm_90:CUDA 13.2:host {host}"
    check_compiled_for("cuda", Path("draft"))


@pytest.mark.usefixtures("no_gpu")
def test_a_machine_without_a_gpu_gets_one_line_with_the_remedy() -> None:
    with pytest.raises(BadRequest) as caught:
        find_device("cuda")
    assert str(caught.value) == (
        "--device cuda: this machine has no NVIDIA driver (libcuda.so.1 cannot be loaded); use --device cpu"
    )


@pytest.mark.usefixtures("no_gpu")
def test_what_was_compiled_for_another_device_is_refused_by_name() -> None:
    with pytest.raises(ArtifactError) as caught:
        check_compiled_for("cuda", Path("some/draft"))
    assert str(caught.value) == (
        "some/draft was compiled for cuda, which cannot be used here: this machine has no NVIDIA driver "
        "(libcuda.so.1 cannot be loaded); open it on a machine that has one, or make another with --device cpu"
    )
    check_compiled_for("cpu", Path("some/draft"))


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"unknown device 'tpu': did you mean cpu\? choose from: cpu, cuda"):
        find_device("tpu")


def test_each_device_has_its_own_lock() -> None:
    assert device_lock("cpu").lock_file != device_lock("cuda").lock_file
