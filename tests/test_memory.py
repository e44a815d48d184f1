from pathlib import Path

import pytest

from autotune import memory
from autotune.errors import BadRequest
from autotune.memory import available_bytes, check_memory, compile_bytes, source_bytes, worker_bytes
from autotune.number_formats import Precision
from autotune.presets import presets
from autotune.programs import compile_target
from autotune.targets import resolve_target

GIB = 2**30


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 23 GiB free; the folder of its cgroups, of which the process is in `outer/own`."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 23 * GIB, "total": 24 * GIB}))
    (tmp_path / "cgroup/outer/own").mkdir(parents=True)
    (tmp_path / "membership").write_text("0::/outer/own\n")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_MEMBERSHIP", tmp_path / "membership")
    return tmp_path / "cgroup"


def limit(folder: Path, most: object, used: int, inactive_file: int = 0) -> None:
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {inactive_file}\n")


def test_without_limits_the_machine_counts(machine: Path) -> None:
    limit(machine / "outer/own", "max", GIB)
    assert available_bytes() == 23 * GIB


def test_the_tightest_cgroup_counts(machine: Path) -> None:
    limit(machine / "outer/own", 16 * GIB, 4 * GIB)
    assert available_bytes() == 12 * GIB
    limit(machine / "outer", 8 * GIB, 5 * GIB, inactive_file=2 * GIB)
    assert available_bytes() == 5 * GIB


def test_workers_may_take_half_of_what_there_is_at_all(machine: Path) -> None:
    limit(machine / "outer/own", "max", 0)
    assert worker_bytes() == 12 * GIB
    limit(machine / "outer", 8 * GIB, 5 * GIB)
    assert worker_bytes() == 4 * GIB


def test_too_little_is_said_with_the_number(machine: Path) -> None:
    check_memory(22 * GIB, "this")
    shape = presets().models["llama-65b"].shape
    with pytest.raises(
        BadRequest, match=r"compiling llama-65b needs 263.2 GiB of memory, but .* has 23.0 GiB available"
    ):
        check_memory(compile_bytes(shape, Precision.FP32, 4096), "compiling llama-65b")
    assert source_bytes(shape, copies=4) == 4 * source_bytes(shape, copies=1) == 4 * shape.weight_bytes(Precision.FP32)


def test_nothing_is_loaded_where_memory_is_short(
    tiny_checkpoint: Path, machine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("autotune.targets.Target.read_weights", lambda _: pytest.fail("weights were read"))
    limit(machine / "outer/own", 1000, 0)
    with pytest.raises(BadRequest, match=r"needs .* GiB of memory"):
        compile_target(resolve_target(str(tiny_checkpoint)), "onnxruntime")
