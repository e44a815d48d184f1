import pytest

from autotune import cuda_driver
from autotune.cuda_driver import CudaDriver, CudaUnavailable, Gpu
from tests.support.fake_cuda import NO_DEVICE, OUT_OF_MEMORY, FakeCuda


def test_the_gpu_is_described() -> None:
    driver = CudaDriver(FakeCuda(["Example H1", "Example H2"]))
    assert driver.gpu() == Gpu("Example H1", (9, 0), 132, 80 << 30, (13, 2))
    assert driver.gpu(1).name == "Example H2"


@pytest.mark.parametrize(
    ("library", "message"),
    [
        (FakeCuda([]), "the NVIDIA driver finds no GPU"),
        (FakeCuda(failing={"cuInit": NO_DEVICE}), "the NVIDIA driver finds no GPU"),
        (
            FakeCuda(failing={"cuInit": 803}),
            r"cuInit of the NVIDIA driver failed: example error 803 \(error 803\)",
        ),
        (FakeCuda(failing={"cuInit": 803, "cuGetErrorString": 1}), r"unknown error \(error 803\)"),
    ],
)
def test_what_hinders_it_is_said(library: FakeCuda, message: str) -> None:
    with pytest.raises(CudaUnavailable, match=message):
        CudaDriver(library)


def test_a_machine_without_the_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libnosuch.so.1")
    with pytest.raises(CudaUnavailable, match=r"has no NVIDIA driver \(libnosuch.so.1 cannot be loaded\)"):
        CudaDriver()


def test_a_copy_reads_one_block_and_writes_the_other() -> None:
    library = FakeCuda()
    copier = CudaDriver(library).copier(1 << 33)
    first, second = library.allocated
    assert set(library.allocated.values()) == {1 << 33}
    assert library.calls.index("cuCtxSetCurrent") < library.calls.index("cuMemAlloc_v2")

    library.calls.clear()
    copier.copy()
    assert library.copied == [(second, first, 1 << 33)]
    assert library.calls == ["cuMemcpyDtoD_v2", "cuCtxSynchronize"]

    copier.close()
    copier.close()
    assert not library.allocated


def test_a_lack_of_device_memory_is_said() -> None:
    with pytest.raises(CudaUnavailable, match="cuMemAlloc_v2 of the NVIDIA driver failed"):
        CudaDriver(FakeCuda(failing={"cuMemAlloc_v2": OUT_OF_MEMORY})).copier(1)
