import hashlib
from pathlib import Path

import pytest

from autotune.errors import ArtifactError
from autotune.runtime import tvm_cuda_library, tvm_cuda_session
from autotune.tvm_cuda_layout import DeviceBuffer, StoredBuffer, TvmCudaLayout

pytest.importorskip("tvm", reason="apache-tvm is not installed")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def layout(tmp_path: Path) -> TvmCudaLayout:
    """The layout of a folder whose files are not programs, but have their checksums."""
    for name in ("lib.so", "kernels.bin", "weights.bin"):
        (tmp_path / name).write_bytes(name.encode())
    buffer = DeviceBuffer("state", (4,), "int64")
    return TvmCudaLayout(
        piece_tokens=1,
        longest_burst=0,
        state_tokens=3,
        dice_noise=4,
        state=(buffer,),
        scratch=(),
        weights=(StoredBuffer("norm", (2,), "float32", 0),),
        caches=(),
        weights_bytes=11,
        architecture="sm_80",
        library_sha256=digest(b"lib.so"),
        kernels_sha256=digest(b"kernels.bin"),
        source_sha256=digest(b""),
    )


def test_a_layout_is_read_as_it_was_written(layout: TvmCudaLayout, tmp_path: Path) -> None:
    layout.write(tmp_path)
    assert TvmCudaLayout.read(tmp_path) == layout


def test_a_malformed_layout_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "layout.json").write_text("{}")
    with pytest.raises(ArtifactError, match="malformed") as caught:
        TvmCudaLayout.read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["lib.so", "kernels.bin"])
def test_damaged_code_is_refused(layout: TvmCudaLayout, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"other")
    with pytest.raises(ArtifactError, match=f"{name} is corrupt"):
        tvm_cuda_library.load_program(tmp_path, layout)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        tvm_cuda_library.load_program(tmp_path, layout)


def test_without_a_driver_one_line_says_so(
    layout: TvmCudaLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoDriver:
        RTLD_GLOBAL = 0

        @staticmethod
        def CDLL(path: str, mode: int) -> None:  # noqa: N802
            raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(tvm_cuda_library, "ctypes", NoDriver)
    with pytest.raises(ArtifactError, match=r"libcuda\.so\.1") as caught:
        tvm_cuda_library.load_program(tmp_path, layout)
    assert str(tmp_path) in str(caught.value)
    assert "NVIDIA driver" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("present", "complaint"), [(None, "finds none"), ("7.5", "from sm_80 on")])
def test_a_gpu_that_is_missing_or_too_old_is_refused(
    layout: TvmCudaLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: str | None, complaint: str
) -> None:
    class Binding:
        @staticmethod
        def get_global_func(name: str) -> object:
            assert name == "runtime.GetDeviceAttr"
            return lambda kind, index, attribute: present

    monkeypatch.setattr(tvm_cuda_library, "load_runtime", Binding)
    monkeypatch.setattr(tvm_cuda_library, "_load_cuda", lambda folder: None)
    with pytest.raises(ArtifactError, match=complaint):
        tvm_cuda_library.load_program(tmp_path, layout)


def test_weights_of_another_size_are_refused(layout: TvmCudaLayout, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"short")
    with pytest.raises(ArtifactError, match="has 5 bytes, not 11"):
        tvm_cuda_session._upload_weights(tmp_path, layout, memory=None)  # type: ignore[arg-type]
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ArtifactError, match="incomplete"):
        tvm_cuda_session._upload_weights(tmp_path, layout, memory=None)  # type: ignore[arg-type]
