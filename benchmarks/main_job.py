"""The main job on the demo as a user runs it, first with an empty cache, then with the source cached.

`python -m benchmarks.main_job` runs `autotune run --target demo` twice with the real command line, the second time
without the tuning database, so that every build is compiled and measured in both, and `autotune bench` on what it
shipped. It records wall time, seconds a shape, peak memory of the whole process tree, estimated against measured TAR,
predicted against measured tokens/s, the loop's overhead, and the measured speed-up beside the bound TAR / ((burst +
verify) / step) that the machine's own latencies set.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.process_tree import run_autotune
from benchmarks.record import machine, spread, write_record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--keep", type=Path, help="folder to leave the runs and the cache in")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        runs = {
            "first": run_job(folder, "first", arguments.trials),
            "cached": run_job(folder, "cached", arguments.trials, "--no-database"),
        }
        shipped = folder / "cached" / "artifact"
        pair = json.loads(run_autotune(folder, "bench", str(shipped), "--repeats", "9")[0])
        del pair["artifact"]  # a path of this machine
    packages = ["numpy", "torch", "onnx", "onnxruntime-gpu", "optuna"]
    write_record("main_job", facts, {**runs, "pair": pair}, packages, arguments.out)


def run_job(folder: Path, name: str, trials: int, *flags: str) -> dict[str, Any]:
    """What `autotune run --target demo` with these flags came to, run into `folder/name`."""
    out = folder / name
    began = time.monotonic()
    words = ["run", "--target", "demo", "--trials", str(trials), "--out", str(out), *flags]
    _, peak_bytes = run_autotune(folder, *words)
    wall_s = time.monotonic() - began
    summary = json.loads((out / "report" / "summary.json").read_text())
    records = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    return {
        "wall_s": wall_s,
        "search_s": sum(record["wall_s"] for record in records),
        "shapes": summary["shapes_evaluated"],
        "failed": summary["failed"],
        "screened": summary["screened"],
        "shape_s": spread([record["wall_s"] for record in records]),
        "peak_memory_mib": peak_bytes / 2**20,
        "baseline_tokens_per_s": summary["baseline"]["tokens_per_s"],
        "validated": [_compare(draft, 1 / summary["baseline"]["tokens_per_s"]) for draft in summary["validated"]],
        "median_tar_error": median(abs(_error(d["tar"], "estimated")) for d in summary["validated"]),
        "median_speed_error": median(abs(_error(d["tokens_per_s"], "predicted")) for d in summary["validated"]),
    }


def _compare(draft: dict[str, Any], step_s: float) -> dict[str, Any]:
    """A validated draft's figures; `bound` is the speed-up its TAR would give if the loop cost nothing."""
    time_of, tar = draft["round"], draft["tar"]["measured"]
    return {
        "draft": draft["name"],
        "lookahead": draft["lookahead"],
        "tar": draft["tar"],
        "tar_error": _error(draft["tar"], "estimated"),
        "tokens_per_s": draft["tokens_per_s"],
        "speed_error": _error(draft["tokens_per_s"], "predicted"),
        "speedup": draft["speedup"],
        "bound": tar * step_s / (time_of["burst_s"] + time_of["verify_s"]),
        "overhead_share": time_of["overhead_share"],
    }


def _error(figure: dict[str, float], before: str) -> float:
    return figure[before] / figure["measured"] - 1


if __name__ == "__main__":
    main()
