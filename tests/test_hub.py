"""Fetching from a hub on loopback; each time in a process of its own, as the hub is chosen at import."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune import hub
from autotune.errors import BadRequest
from tests.support.checkpoints import save_llama, save_tokenizer
from tests.support.fake_hub import FakeHub, serve_hub

ROOT = Path(__file__).parents[1]


@pytest.fixture
def server(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[FakeHub]:
    pickled, sharded, bare = tmp_path / "pickled", tmp_path / "sharded", tmp_path / "bare"
    shutil.copytree(tiny_checkpoint, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    save_llama(sharded, shard_size="20KB")
    save_tokenizer(sharded)
    shutil.copytree(tiny_checkpoint, bare)
    (bare / "tokenizer.json").unlink()
    folders = {"our/tiny": tiny_checkpoint, "our/pickled": pickled, "our/sharded": sharded, "our/bare": bare}
    with serve_hub(FakeHub(folders)) as served:
        yield served


def fetch(
    server: FakeHub, tmp_path: Path, name: str, *, download: bool = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Resolve a name as the commands do, failures included, and print the folder."""
    program = f"""
from autotune.cli import _failures
from autotune.targets import resolve_target, fetch_models
from autotune.terminal import TerminalObserver
with _failures(), TerminalObserver() as observer:
    if {download}:
        fetch_models([{name!r}], observer)
    print(resolve_target({name!r}, download={download}).checkpoint)
"""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "AUTOTUNE_CACHE": str(tmp_path / "cache"),
    }
    for variable in ("HF_HUB_CACHE", "HF_TOKEN"):
        environment.pop(variable, None)
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=False)


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done
    assert done.stdout == ""
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["our/tiny", "our/sharded"])
def test_what_was_fetched_is_found_again_offline(server: FakeHub, tmp_path: Path, name: str) -> None:
    done = fetch(server, tmp_path, name)
    assert done.returncode == 0, done.stderr
    assert f"of {name} to {tmp_path / 'hub' / 'hub'}" in done.stderr
    assert "Fetching 0." in done.stderr  # a size in MB
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(tmp_path / "hub")
    asked = len(server.requests)
    again = fetch(server, tmp_path, name, download=False, HF_HUB_OFFLINE="1")
    assert again.stdout == done.stdout
    assert len(server.requests) == asked


def test_only_what_a_checkpoint_needs_is_fetched(server: FakeHub, tmp_path: Path) -> None:
    folder = shutil.copytree(server.folders["our/tiny"], tmp_path / "more")
    (folder / "pytorch_model.bin").write_bytes(b"x" * 100)
    (folder / "README.md").write_text("read me")
    server.folders["our/more"] = folder
    assert fetch(server, tmp_path, "our/more").returncode == 0
    asked = {path.rpartition("/")[2] for _, path, _ in server.requests}
    assert "model.safetensors" in asked
    assert not asked & {"pytorch_model.bin", "README.md"}


def test_shards_are_those_of_the_index(server: FakeHub, tmp_path: Path) -> None:
    folder = shutil.copytree(server.folders["our/sharded"], tmp_path / "more")
    (folder / "consolidated.safetensors").write_bytes(b"x" * 100)
    server.folders["our/more"] = folder
    assert fetch(server, tmp_path, "our/more").returncode == 0
    assert not any("consolidated" in path for _, path, _ in server.requests)
    next(folder.glob("model-00003*")).unlink()
    server.folders["our/less"] = folder
    error = error_of(fetch(server, tmp_path, "our/less"))
    assert "the index of our/less names model-00003-of-00006.safetensors, which is not there" in error


def test_nothing_is_fetched_unasked(server: FakeHub, tmp_path: Path) -> None:
    error = error_of(fetch(server, tmp_path, "our/tiny", download=False))
    assert "our/tiny is neither a folder nor in the hub's cache" in error
    assert "--download fetches it" in error
    assert server.requests == []


def test_gated(server: FakeHub, tmp_path: Path) -> None:
    server.gated.add("our/tiny")
    error = error_of(fetch(server, tmp_path, "our/tiny"))
    assert f"accept its licence on {server.url}/our/tiny, then log in with `hf auth login`" in error


def test_unknown_repository(server: FakeHub, tmp_path: Path) -> None:
    assert "there is no repository our/tinny" in error_of(fetch(server, tmp_path, "our/tinny"))


def test_pickles_are_refused_with_the_conversion(server: FakeHub, tmp_path: Path) -> None:
    error = error_of(fetch(server, tmp_path, "our/pickled"))
    assert "only pickled weights" in error
    assert "M.from_pretrained('our/pickled', dtype='auto').save_pretrained('pickled-safetensors')" in error


def test_a_repository_without_tokenizer_file(server: FakeHub, tmp_path: Path) -> None:
    assert "our/bare has no tokenizer.json: convert it with" in error_of(fetch(server, tmp_path, "our/bare"))


def test_offline(server: FakeHub, tmp_path: Path) -> None:
    error = error_of(fetch(server, tmp_path, "our/tiny", HF_HUB_OFFLINE="1"))
    assert "HF_HUB_OFFLINE is set" in error
    assert server.requests == []


def test_no_connection(server: FakeHub, tmp_path: Path) -> None:
    error = error_of(fetch(server, tmp_path, "our/tiny", HF_ENDPOINT="http://127.0.0.1:9"))
    assert "cannot reach http://127.0.0.1:9 for our/tiny" in error


def test_after_an_interruption_only_the_rest_is_fetched(server: FakeHub, tmp_path: Path) -> None:
    server.breaks_after["model.safetensors"] = 10_000
    error = error_of(fetch(server, tmp_path, "our/tiny"))
    assert error.endswith("whole files are kept: the same command fetches the rest")
    server.breaks_after.clear()
    asked = len(server.requests)
    assert fetch(server, tmp_path, "our/tiny").returncode == 0
    fetched = [path.rpartition("/")[2] for method, path, _ in server.requests[asked:] if method == "GET"]
    assert "model.safetensors" in fetched
    assert not {"config.json", "tokenizer.json"} & set(fetched)


def test_a_disk_too_small_is_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = hub.Listing("our/huge", {"config.json": 1000, "model.safetensors": 130_000_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5_000_000_000}))
    with pytest.raises(BadRequest, match=r"our/huge needs 130.0 GB more, but .* has 5.0 GB free: make room"):
        hub.fetch(listing, lambda done: None)
