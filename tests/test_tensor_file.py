from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from autotune.errors import BadRequest
from autotune.tensor_file import open_tensors, write_tensors
from tests.support.disks import largest_file_bytes


def test_reads_what_it_wrote(tmp_path: Path) -> None:
    arrays = {
        "matrix": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
        "ids": np.arange(4, dtype=np.int32),
        "none": np.zeros((0, 3), np.float32),
        "scalar": np.array(2.5, np.float32),
    }
    write_tensors(tmp_path / "new" / "file", arrays, {"about": "a test"})
    file = open_tensors(tmp_path / "new" / "file")
    assert file.metadata == {"about": "a test"}
    assert set(file.tensors) == set(arrays)
    for name, array in arrays.items():
        assert file.tensors[name].shape == array.shape
        np.testing.assert_array_equal(file.tensors[name].read(), array)
        assert file.tensors[name].read().dtype == array.dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_stored_number_becomes_its_fp32_self(dtype: torch.dtype, tmp_path: Path) -> None:
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    stored = bits.view(dtype) if dtype != torch.float32 else torch.linspace(-1e30, 1e30, 999)
    save_file({"all": stored}, tmp_path / "file")
    read = open_tensors(tmp_path / "file").tensors["all"].read_fp32()
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, stored.float().numpy())


def test_integers_are_no_weights(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", {"ids": np.arange(4, dtype=np.int32)}, {})
    with pytest.raises(BadRequest, match="stores 'ids' as I32: convert"):
        open_tensors(tmp_path / "file").tensors["ids"].read_fp32()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_tensors(path, {"a": np.zeros(3, np.float32)}, {})
    before = path.read_bytes()
    with largest_file_bytes(10_000), pytest.raises(BadRequest, match=r"cannot write .*file"):
        write_tensors(path, {"a": np.zeros(100_000, np.float32)}, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="does not exist"):
        open_tensors(tmp_path / "none")
    with pytest.raises(BadRequest, match=r"cannot read|corrupt"):
        open_tensors(tmp_path)
