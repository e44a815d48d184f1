from collections.abc import Callable

import pytest

from autotune.reports.facts import RunFacts
from tests.support.facts import synthetic_facts


@pytest.fixture
def make_facts() -> Callable[..., RunFacts]:
    """A builder of synthetic facts; `speed` scales how fast the drafts are."""
    return synthetic_facts
