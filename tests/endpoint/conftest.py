"""A small target, and a cache and an environment that know nothing."""

from pathlib import Path

import pytest

from autotune.targets import Target, resolve_target


@pytest.fixture(scope="module")
def target(tiny_checkpoint: Path) -> Target:
    return resolve_target(str(tiny_checkpoint))


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    for name in ("AUTOTUNE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"
