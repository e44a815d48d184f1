"""What the tuning database saves: a run with nothing known, then runs that share builds with it.

`python -m benchmarks.second_run` runs the search on the demo four times in one process, in a cache of its own:

* *first*: nothing is known,
* *again*: the very same run,
* *limited*: other constraints (a memory limit that rules out part of the builds),
* *workload*: other prompts, so other traces, another elastic source, and other weights of every draft.

The seconds compared are those spent on compiling and measuring: on the target (its own phase of the run, the choice of
threads included) and on every build (`latency_s` of its trial, which covers the look-up where it was known).  Recording
traces, training, compiling the target's program (all cached by content of their own), estimating acceptance and the
final decoding, for which finalists are always built anew, are not part of it; acceptance is stated beside it.

Nothing is screened out. The space is small enough for a run to try all of it, so that the other runs ask for known
builds; where a search of a larger space goes another way, the builds it meets for the first time cost what they always
did.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from autotune import TuneConfig, tune
from autotune.progress import LoggingObserver
from autotune.results import TrialRecord
from autotune.store import RunFolder
from autotune.workload import read_prompts
from benchmarks.record import machine, spread, write_record

SPACE = {"layers": "1:4", "heads": "2,4", "ffn": "176,352", "lookahead": "0:8", "precision": "fp32,int8"}
BUILDS = 4 * 2 * 2 * 2
BUDGETS = {"elastic_budget": "10s", "finish": 0, "validate": 1, "trials": 2 * BUILDS, "screen": False}
MEASURING_PHASE = "Measuring the target"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="onnxruntime", help="one or several, with commas")
    parser.add_argument("--max-memory", default="4MiB", help="limit of the run with other constraints")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["AUTOTUNE_CACHE"] = str(folder / "cache")
        prompts = _other_prompts(folder / "prompts.txt")
        asked: dict[str, dict[str, Any]] = {
            "first": {},
            "again": {},
            "limited": {"max_memory": arguments.max_memory},
            "workload": {"prompts": str(prompts)},
        }
        common = {**SPACE, **BUDGETS, "backend": arguments.backend}
        runs = {name: _run(folder / name, {**common, **changes}) for name, changes in asked.items()}
        database_bytes = (folder / "cache" / "tuning.db").stat().st_size
    ratios = {name: runs["first"]["per_build_s"] / run["per_build_s"] for name, run in runs.items() if name != "first"}
    results = {
        "space": SPACE,
        "database_bytes": database_bytes,
        "runs": runs,
        "compile_and_measure_ratio": {
            name: runs["first"]["compile_and_measure_s"] / run["compile_and_measure_s"]
            for name, run in runs.items()
            if name != "first"
        },
        "compile_and_measure_ratio_per_build": ratios,
    }
    write_record("second_run", facts, results, ["numpy", "torch", "onnx", "onnxruntime-gpu", "optuna"], arguments.out)


class _PhaseClock(LoggingObserver):
    """Adds up the wall seconds of every phase."""

    def __init__(self) -> None:
        self.phases_s: dict[str, float] = {}
        self._title, self._began_s = "Resolving", time.perf_counter()

    def phase(self, title: str) -> None:
        now_s = time.perf_counter()
        self.phases_s[self._title] = self.phases_s.get(self._title, 0.0) + now_s - self._began_s
        self._title, self._began_s = title, now_s


def _run(out: Path, values: dict[str, Any]) -> dict[str, Any]:
    clock = _PhaseClock()
    began_s = time.perf_counter()
    result = tune(TuneConfig.model_validate({**values, "target": "demo", "out": out}), clock)
    wall_s = time.perf_counter() - began_s
    clock.phase("done")
    records = RunFolder(out).records()
    measured = [record for record in records if record.scores]
    if len(measured) < 2:
        raise SystemExit(f"only {len(measured)} builds of the run {out.name} have a score: give a wider limit")
    target_s = clock.phases_s[MEASURING_PHASE]
    builds_s = sum(_latency_s(record) for record in records)
    return {
        "builds": len(measured),
        "ruled_out": sum(record.ruled_out for record in records),
        "failed": len(records) - len(measured) - sum(record.ruled_out for record in records),
        "known_builds": result.summary.known,
        "target_known": RunFolder(out).read_latency().date is not None,  # type: ignore[union-attr]
        "target_s": target_s,
        "builds_s": builds_s,
        "compile_and_measure_s": target_s + builds_s,
        "per_build_s": (target_s + builds_s) / len(measured),
        "build_s": spread([_latency_s(record) for record in measured]),
        "acceptance_s": sum(_acceptance_s(record) for record in records),
        "search_s": sum(record.wall_s for record in records),
        "wall_s": wall_s,
        "tar_of_the_first_build": measured[0].scores[-1].tokens_per_round.value,
    }


def _latency_s(record: TrialRecord) -> float:
    """Seconds of compiling and measuring; all of a failed build's, which says nothing of its parts."""
    return getattr(record.outcome, "latency_s", 0.0 if record.ruled_out else record.wall_s)


def _acceptance_s(record: TrialRecord) -> float:
    return getattr(record.outcome, "acceptance_s", 0.0)


def _other_prompts(path: Path) -> Path:
    """A prompts file that shares no prompt with what the others use: the second half of each of the built-in ones."""
    texts = [prompt.text for prompt in read_prompts("builtin") if not prompt.only_train]
    halves = [text[len(text) // 2 :].replace("\n", " ").strip() for text in texts]
    path.write_text("\n".join(dict.fromkeys(half for half in halves if half)) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
