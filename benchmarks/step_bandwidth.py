"""Decode step of a 50 M-parameter fp32 draft against the time it takes merely to read its weights from memory.

    python -m benchmarks.step_bandwidth [--out FILE] [--backend onnxruntime] [--threads 1] [--rounds 60]

The two are timed in turn (floor, step, floor, step, …), so that both meet the same machine, and so that each finds the
caches filled with the other's data.  The share is floor / step: 1.0 would be a step that does nothing but read.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from autotune.candidate import DraftShape, Precision
from autotune.compile.base import BACKENDS, CompileSettings, build_program, load_backend
from autotune.runtime.session import open_session
from autotune.weights import Numerics, random_weights
from benchmarks.record import machine, spread, write_record
from benchmarks.stream_reader import stream_reader

SHAPE = DraftShape(layers=4, heads=16, kv_heads=4, head_dim=64, hidden=1024, ffn=2304, vocab=8192)
NUMERICS = Numerics(family="llama", norm_eps=1e-5, rope_theta=10_000.0, context_tokens=1024)
CONTEXT_TOKENS = 64
TARGET_SHARE = 0.85
WARM_UP_ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument("--backend", choices=sorted(BACKENDS), default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    facts = machine()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = random_weights(SHAPE, NUMERICS)
        built = build_program(
            arguments.backend, weights, CompileSettings(Precision.FP32, 2 * CONTEXT_TOKENS), folder / "program"
        )
        session = open_session(folder / "program", arguments.threads)
        read, made_with = stream_reader(read_bytes(), arguments.threads, folder)
        session.greedy([1] * CONTEXT_TOKENS, 0)
        floor_s, step_s = [], []
        for _ in range(WARM_UP_ROUNDS + arguments.rounds):
            floor_s.append(seconds(read))
            step_s.append(seconds(lambda: session.greedy([1], CONTEXT_TOKENS)))
    floor_s, step_s = floor_s[WARM_UP_ROUNDS:], step_s[WARM_UP_ROUNDS:]

    share = spread(floor_s)["median"] / spread(step_s)["median"]
    results = {
        "settings": {
            "shape": str(SHAPE),
            "parameters": SHAPE.parameters,
            "read_bytes": read_bytes(),
            "context_tokens": CONTEXT_TOKENS,
            "threads": arguments.threads,
            "warm_up_rounds": WARM_UP_ROUNDS,
            "reader": made_with,
            "compiler": dict(load_backend(arguments.backend).versions()),
        },
        "build_s": built.build_s,
        "build_s_per_50_m_parameters": built.build_s / SHAPE.parameters * 50e6,
        "floor_s": spread(floor_s),
        "step_s": spread(step_s),
        "floor_gb_per_s": read_bytes() / spread(floor_s)["median"] / 1e9,
        "share_of_floor": share,
        "share_of_floor_by_round": spread([floor / step for floor, step in zip(floor_s, step_s, strict=True)]),
        "target_share": TARGET_SHARE,
        "met": share >= TARGET_SHARE,
    }
    write_record("step_bandwidth", facts, results, ("numpy",), arguments.out)


def read_bytes() -> int:
    """Bytes one decode step must read: every weight but the embedding table, and the cache of the context."""
    return SHAPE.decode_parameters * 4 + CONTEXT_TOKENS * SHAPE.kv_bytes_per_token


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
