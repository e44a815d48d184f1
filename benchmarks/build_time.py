"""Seconds to compile a 50 M-parameter draft, each time in a fresh process, as the search compiles its candidates.

    python -m benchmarks.build_time [--out FILE] [--backend tvm] [--precisions fp32,int8,int4] [--repeats 7]

Counted are importing the compiler, compiling, linking and writing the packed weights; not the interpreter's start, nor
making the random weights.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autotune.candidate import DraftShape, Precision
from autotune.compile.base import BACKENDS, CompileSettings, build_program
from autotune.weights import random_weights
from benchmarks.record import machine, spread, write_record
from benchmarks.step_bandwidth import CONTEXT_TOKENS, NUMERICS

SHAPE = DraftShape(layers=4, heads=16, kv_heads=4, head_dim=64, hidden=1024, ffn=2304, vocab=5120)
"""50 M parameters."""
TARGET_S = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument("--backend", choices=sorted(BACKENDS), default="tvm")
    parser.add_argument("--precisions", default="fp32,int8,int4")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--once", action="store_true", help="build once in this process and print the seconds")
    arguments = parser.parse_args()
    precisions = [Precision(name) for name in arguments.precisions.split(",")]
    if arguments.once:
        print(json.dumps(build(arguments.backend, precisions[0])))
        return
    facts = machine()
    samples: dict[str, list[dict[str, float]]] = {precision: [] for precision in precisions}
    for _ in range(arguments.repeats):
        for precision in precisions:
            samples[precision].append(build_in_fresh_process(arguments.backend, precision))
    medians = {
        precision: {name: spread([sample[name] for sample in each]) for name in ("wall_s", "cpu_s")}
        for precision, each in samples.items()
    }
    results = {
        "settings": {"shape": str(SHAPE), "parameters": SHAPE.parameters, "backend": arguments.backend},
        "build": medians,
        "target_s": TARGET_S,
        "met": all(each["wall_s"]["median"] <= TARGET_S for each in medians.values()),
    }
    write_record("build_time", facts, results, ("numpy",), arguments.out)


def build(backend: str, precision: Precision) -> dict[str, float]:
    """Wall and processor seconds of one build in this process."""
    weights = random_weights(SHAPE, NUMERICS)
    with tempfile.TemporaryDirectory() as name:
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        build_program(backend, weights, CompileSettings(precision, 2 * CONTEXT_TOKENS), Path(name))
        return {"wall_s": time.perf_counter() - began_s, "cpu_s": time.process_time() - cpu_began_s}


def build_in_fresh_process(backend: str, precision: Precision) -> dict[str, float]:
    """As `build`, in a new Python."""
    command = [sys.executable, "-m", "benchmarks.build_time", "--once", "--backend", backend, "--precisions", precision]
    seconds: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return seconds


if __name__ == "__main__":
    main()
