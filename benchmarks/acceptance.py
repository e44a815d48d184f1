"""Seconds to turn 1 M trace tokens into TAR(k) for k ≤ 16: `python -m benchmarks.acceptance`."""

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autotune.acceptance import tokens_per_round
from benchmarks.record import machine, spread, write_record

TOKENS, MAX_LOOKAHEAD = 1_000_000, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    facts = machine()
    rng = np.random.default_rng(0)
    sampled = rng.random(TOKENS) ** 0.25
    inputs: dict[str, ArrayLike | list[NDArray[np.float64]]] = {
        "sampled, one trace": sampled,
        "greedy, one trace": (rng.random(TOKENS) < 0.8).astype(float),
        "all accepted, one trace": np.ones(TOKENS),
        "sampled, 10,000 traces": list(sampled.reshape(10_000, -1)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in inputs}
    for _ in range(arguments.repeats):
        for name, acceptance in inputs.items():
            began = time.perf_counter()
            tokens_per_round(acceptance, MAX_LOOKAHEAD)
            seconds[name].append(time.perf_counter() - began)
    figures = {name: spread(samples) for name, samples in seconds.items()}
    results = {"tokens": TOKENS, "max_lookahead": MAX_LOOKAHEAD, "seconds": figures}
    write_record("acceptance", facts, results, ["numpy"], arguments.out)


if __name__ == "__main__":
    main()
