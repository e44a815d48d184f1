"""A made-up evaluator for the search: pure arithmetic on the build, with failures and interruptions on request."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from autotune.candidate import Build, DraftShape, Precision
from autotune.evaluate import Screen
from autotune.results import Measured, Rejected, Screened
from autotune.search_space.space import Ranges, SearchSpace, make_space
from autotune.store import RunFolder
from autotune.tuner import Budget, Search
from tests.support.figures import measured

SOURCE = DraftShape(layers=3, heads=4, kv_heads=2, head_dim=8, hidden=32, ffn=96, vocab=100)
LOOKAHEADS = 3

Outcome = Measured | Rejected | Screened


def tiny_space(**ranges: str) -> SearchSpace:
    """Twelve builds with three lookaheads each, unless the ranges say otherwise."""
    written = {"layers": "1:3", "heads": "2,4", "ffn": "48,96", "lookahead": f"0:{LOOKAHEADS}"} | ranges
    return make_space(SOURCE, Ranges(**written), ("onnxruntime",), (Precision.FP32,))


class FakeEvaluator:
    """Deeper and wider drafts are kept more often and take longer; `before(n, build)` may interfere with the n-th."""

    def __init__(self, before: Callable[[int, Build], Outcome | None] = lambda n, build: None) -> None:
        self.builds: list[Build] = []
        self.compiled: list[Build] = []
        self._before = before

    def evaluate(self, build: Build, screen: Screen | None = None) -> Outcome:
        self.builds.append(build)
        interfering = self._before(len(self.builds), build)
        if interfering is not None:
            return interfering
        outcome = outcome_of(build)
        screened = screen(build, outcome.acceptance, range(1, LOOKAHEADS + 1)) if screen else None
        if screened is not None:
            return screened
        self.compiled.append(build)
        return outcome


def outcome_of(build: Build) -> Measured:
    """What the build comes to."""
    shape = build.shape
    kept = 0.2 + 0.2 * shape.layers + 0.05 * shape.heads / 4 + 0.1 * shape.ffn / 96
    return measured(kept, 0.0005 * shape.layers * (1 + shape.ffn / 96), LOOKAHEADS)


class SilentObserver:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.statuses: list[object] = []

    def phase(self, title: str) -> None:
        pass

    def progress(self, fraction: float) -> None:
        pass

    def trial(self, record: object, status: object) -> None:
        self.statuses.append(status)

    def note(self, text: str) -> None:
        self.notes.append(text)


def search_until_killed(path: str, nth: str) -> None:
    """A search that kills its own process, as `kill -9` would, in the middle of the n-th evaluation."""

    def before(n: int, build: Build) -> None:
        if n == int(nth):
            print(build.key(), flush=True)  # noqa: T201 (tells the test which one was cut short)
            os.kill(os.getpid(), signal.SIGKILL)

    with RunFolder.open(Path(path), {}, resume=True) as folder:
        Search(tiny_space(layers="1:2"), FakeEvaluator(before), folder, SilentObserver(), seed=0).run(Budget(12, 60.0))


if __name__ == "__main__":
    search_until_killed(*sys.argv[1:])
