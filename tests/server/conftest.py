"""A server of a small pair, for all tests that only ask it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.pair import Pair
from tests.support.artifacts import artifact_of_demo
from tests.support.serving import serving


@pytest.fixture(scope="session")
def demo_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact_of_demo(tmp_path_factory.mktemp("served") / "artifact")


@pytest.fixture(scope="session")
def url(demo_artifact: Path) -> Iterator[str]:
    with serving(Pair.open(demo_artifact)) as address:
        yield address


@pytest.fixture(scope="session")
def pair(demo_artifact: Path) -> Iterator[Pair]:
    """The same pair, to compare with."""
    with Pair.open(demo_artifact) as opened:
        yield opened
