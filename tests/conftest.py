import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.command_line import autotune, refused

__all__ = ["autotune", "refused"]

# Before anything imports torch: the suite shares its cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# How long an example takes says nothing on a shared machine.
settings.register_profile("autotune", deadline=None)
settings.load_profile("autotune")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache of the whole test session, away from the user's own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOTUNE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer LLaMA (grouped heads, fp32) and a byte-level tokenizer; do not write to it."""
    from tests.support.checkpoints import save_llama, save_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    save_llama(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty of the demo's prompts."""
    from tests.support.runs import write_prompts

    return write_prompts(tmp_path_factory.mktemp("prompts") / "prompts.jsonl")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, prompts: Path) -> Path:
    """The folder of a whole run of the demo; do not write to it."""
    from tests.support.runs import small_run

    return small_run(tmp_path_factory.mktemp("runs") / "run", prompts)
