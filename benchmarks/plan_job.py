"""A target that is not here, as a user plans for it: `autotune run --target llama-65b` without any weights.

`python -m benchmarks.plan_job` runs the real command line with an empty cache, and records its wall time, the peak
memory of the whole process tree, the target's extrapolated latency, and the plan that came out.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from benchmarks.process_tree import run_autotune
from benchmarks.record import machine, write_record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="llama-65b")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="folder to leave the run and the cache in")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        out, began_s = folder / "run", time.monotonic()
        words = ["run", "--target", arguments.target, "--trials", str(arguments.trials), "--out", str(out)]
        printed, peak_bytes = run_autotune(folder, *words)
        wall_s = time.monotonic() - began_s
        summary = json.loads((out / "report" / "summary.json").read_text())
        files = sorted(path.relative_to(out).as_posix() for path in (out / "artifact").rglob("*") if path.is_file())
    results = {
        "wall_s": wall_s,
        "peak_memory_gib": peak_bytes / 2**30,
        "kind": summary["kind"],
        "banner": summary["banner"],
        "printed": printed.splitlines()[0],
        "baseline": summary["baseline"],
        "trials": summary["trials"],
        "screened": summary["screened"],
        "failed": summary["failed"],
        "ruled_out": summary["ruled_out"],
        "best": summary["best"],
        "front": summary["front"],
        "artifact": files,
    }
    packages = ["numpy", "onnx", "onnxruntime-gpu", "apache-tvm", "optuna"]
    write_record("plan_job", facts, results, packages, arguments.out)


if __name__ == "__main__":
    main()
