"""Estimated against measured tokens per round, greedy and sampled, on the demo as a user runs it.

    python -m benchmarks.temperatures [--out FILE] [--temperatures 0,0.7,1.0] [--trials 24] [--all-prompts]

One `autotune run --target demo --temperature T` per temperature with the real command line: traces, proxies and the
decoding of the finalists are all at that temperature.  The estimate is made on other prompts than the measurement, with
other random numbers; both have intervals, which more text makes narrower.  `--all-prompts` deals all 2,000 prompts of
the demo to the three splits, where a run keeps 1,600 for training alone: five times as many to estimate and decode.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from autotune.targets import demo_folder
from benchmarks.main_job import run_job
from benchmarks.record import machine, write_record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--temperatures", default="0,0.7,1.0")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--all-prompts", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder to leave the runs and the cache in")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    facts = machine()
    runs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        prompts = str(all_prompts(Path(scratch))) if arguments.all_prompts else "builtin"
        for temperature in arguments.temperatures.split(","):
            flags = ["--temperature", temperature, "--max-new-tokens", str(arguments.max_new_tokens)]
            flags += ["--prompts", prompts]
            run = run_job(folder, f"at-{temperature}", arguments.trials, *flags)
            errors = [abs(draft["tar_error"]) for draft in run["validated"]]
            runs[temperature] = {"largest_tar_error": max(errors), **run}
    packages = ["numpy", "torch", "onnx", "onnxruntime-gpu", "apache-tvm", "optuna"]
    write_record("temperatures", facts, {"temperatures": runs}, packages, arguments.out)


def all_prompts(folder: Path) -> Path:
    """A prompts file of all the demo's prompts, none of them for training alone."""
    files = [demo_folder() / f"{name}.jsonl" for name in ("prompts", "train_prompts")]
    lines = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    free = ({name: value for name, value in prompt.items() if name != "split"} for prompt in lines)
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in free), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
