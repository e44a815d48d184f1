"""Every build of a small space, compiled and measured once, and kept in a file."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import TypeAdapter

from autotune.config import TuneConfig, make_config
from autotune.progress import LoggingObserver
from autotune.request import resolve
from autotune.results import Measured, Rejected, TargetLatency
from autotune.search_space.space import SearchSpace
from autotune.store import RunFolder
from autotune.workbench import Workbench, prepare

_CHUNK_BUILDS = 8
"""Builds after which the file is written anew, so that a stopped measurement goes on where it was."""


@dataclass(frozen=True)
class Truth:
    """What every build of a space comes to."""

    asked: dict[str, Any]
    """The configuration's keys: those of the space, and how it was measured."""
    machine: dict[str, Any]
    """The machine as it was when the first build was measured."""
    date: str
    prepare_s: float
    """Seconds that the target and the drafts' source took."""
    latency: TargetLatency
    """The target's side of every round."""
    outcomes: dict[str, Measured | Rejected]
    """By the key of the build."""

    @property
    def measuring_s(self) -> float:
        """Seconds that all acceptances, compilations and measurements took."""
        measured = [outcome for outcome in self.outcomes.values() if isinstance(outcome, Measured)]
        return sum(outcome.acceptance_s + outcome.latency_s for outcome in measured)


_TRUTH = TypeAdapter(Truth)


def space_of(asked: dict[str, Any]) -> SearchSpace:
    """The space that a configuration searches."""
    return resolve(make_config(asked)).space


def find_truth(asked: dict[str, Any], machine: dict[str, Any], file: Path | None) -> Truth:
    """The truth of the space that is asked for: from the file as far as it goes, and measured where it does not.

    Raises SystemExit if the file holds another space's.
    """
    known = _read(file, asked) if file is not None else None
    builds = list(space_of(asked).builds())
    if known is not None and all(build.key() in known.outcomes for build in builds):
        return known
    began_s = time.perf_counter()
    with _bench(asked, known.latency if known else None) as bench:
        prepare_s = time.perf_counter() - began_s
        date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        truth = known or Truth(asked, machine, date, prepare_s, bench.latency, {})
        missing = [build for build in builds if build.key() not in truth.outcomes]
        Random(0).shuffle(missing)  # so that no axis of the space is measured at a busier time than another
        for n, build in enumerate(missing, 1):
            outcome = bench.evaluator.evaluate(build)
            assert isinstance(outcome, Measured | Rejected)
            truth.outcomes[build.key()] = outcome
            if file is not None and (n % _CHUNK_BUILDS == 0 or n == len(missing)):
                _write(file, truth)
    return truth


def _read(file: Path, asked: dict[str, Any]) -> Truth | None:
    if not file.exists():
        return None
    truth = _TRUTH.validate_json(file.read_bytes())
    if truth.asked != asked:
        raise SystemExit(f"{file} holds the measurements of another space: {truth.asked}")
    return truth


def _write(file: Path, truth: Truth) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".tmp")
    beside.write_bytes(_TRUTH.dump_json(truth))
    beside.rename(file)


@contextmanager
def _bench(asked: dict[str, Any], latency: TargetLatency | None) -> Iterator[Workbench]:
    """The workbench of the demo; a stopped measurement goes on with the target's latencies it began with."""
    with TemporaryDirectory() as scratch:
        config: TuneConfig = make_config({**asked, "database": False, "out": Path(scratch, "run")})
        request = resolve(config)
        with RunFolder.open(config.out, request.identity(), resume=False) as folder:
            if latency is not None:
                folder.write_latency(latency)
            yield prepare(request, folder, LoggingObserver())
