"""Drafting k tokens as one program against k calls, with each compiler and across both, for drafts of several sizes.

    python -m benchmarks.burst [--out FILE] [--threads 1] [--rounds 100] [--shapes 0.3M,1M,5M,15M,50M]

All ways are timed in turn (A B C A B C …), each in a session of its own, and each after a read of foreign memory, as
the target is read between two bursts; each round's ratio compares neighbours in time.  All draft greedily from the same
context, and `same_tokens` says whether the same.  A compiler without bursts for a shape has calls only.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autotune.candidate import DraftShape, Precision
from autotune.compile.base import CompileSettings, build_program, load_backend
from autotune.program import Drafting
from autotune.runtime.session import Session, open_session
from autotune.weights import Numerics, random_weights
from benchmarks.record import machine, spread, write_record

SHAPES = {
    "0.3M": DraftShape(layers=2, heads=2, kv_heads=2, head_dim=32, hidden=64, ffn=176, vocab=1536),
    "1M": DraftShape(layers=2, heads=4, kv_heads=4, head_dim=32, hidden=128, ffn=352, vocab=2048),
    "5M": DraftShape(layers=4, heads=4, kv_heads=4, head_dim=64, hidden=256, ffn=704, vocab=4096),
    "15M": DraftShape(layers=4, heads=8, kv_heads=8, head_dim=64, hidden=512, ffn=1408, vocab=2048),
    "50M": DraftShape(layers=4, heads=16, kv_heads=16, head_dim=64, hidden=1024, ffn=2816, vocab=2048),
}
NUMERICS = Numerics(family="llama", norm_eps=1e-5, rope_theta=10_000.0, context_tokens=1024)
BACKENDS = ("tvm", "onnxruntime")
LOOKAHEADS = (4, 8)
CONTEXT_TOKENS = 128
WARM_UP_ROUNDS = 5
FOREIGN_BYTES = 64 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--shapes", default="0.3M,1M,5M,15M,50M", help=f"of {', '.join(SHAPES)}")
    arguments = parser.parse_args()
    facts = machine()
    results = {
        "settings": {
            "context_tokens": CONTEXT_TOKENS,
            "threads": arguments.threads,
            "foreign_bytes": FOREIGN_BYTES,
            "warm_up_rounds": WARM_UP_ROUNDS,
            "compilers": {name: dict(load_backend(name).versions()) for name in BACKENDS},
        },
        "shapes": {
            name: measure(SHAPES[name], arguments.threads, arguments.rounds) for name in arguments.shapes.split(",")
        },
    }
    write_record("burst", facts, results, ("numpy",), arguments.out)


def measure(shape: DraftShape, threads: int, rounds: int) -> Mapping[str, Any]:
    """Build times and burst times of one shape."""
    weights = random_weights(shape, NUMERICS)
    settings = CompileSettings(Precision.FP32, 2 * CONTEXT_TOKENS, longest_burst=max(LOOKAHEADS))
    with tempfile.TemporaryDirectory() as name:
        built, ways = {}, {}
        for backend in BACKENDS:
            folder = Path(name, backend)
            built[backend] = build_program(backend, weights, settings, folder)
            for drafting in Drafting:
                session = open_session(folder, threads)
                if drafting is Drafting.BURST and session.program.longest_burst < max(LOOKAHEADS):
                    continue
                session.drafting = drafting
                session.greedy([1] * CONTEXT_TOKENS, 0)
                ways[f"{backend}_{drafting.name.lower()}"] = session
        bursts = {f"k={k}": compare(ways, k, rounds) for k in LOOKAHEADS}
        for session in ways.values():
            session.close()
    return {
        "shape": str(shape),
        "parameters": shape.parameters,
        "build_s": {backend: each.build_s for backend, each in built.items()},
        **bursts,
    }


def compare(ways: Mapping[str, Session], count: int, rounds: int) -> Mapping[str, Any]:
    """Times of the ways to draft `count` tokens, and how many times faster bursts are than calls."""
    samples_s: dict[str, list[float]] = {name: [] for name in ways}
    foreign = np.ones(FOREIGN_BYTES // 8)
    drafted = {tuple(session.burst([1], CONTEXT_TOKENS, count)) for session in ways.values()}
    for _ in range(WARM_UP_ROUNDS + rounds):
        for name, session in ways.items():
            foreign.sum()
            began = time.perf_counter()
            session.burst([1], CONTEXT_TOKENS, count)
            samples_s[name].append(time.perf_counter() - began)
    kept = {name: samples[WARM_UP_ROUNDS:] for name, samples in samples_s.items()}
    best = {call: fastest(kept, call) for call in ("burst", "calls")}
    pairs = {
        f"{backend}_burst_over_{backend}_calls": (f"{backend}_burst", f"{backend}_calls")
        for backend in BACKENDS
        if f"{backend}_burst" in kept
    }
    pairs |= {f"best_burst_over_{backend}_calls": (best["burst"], f"{backend}_calls") for backend in BACKENDS}
    pairs["best_burst_over_best_calls"] = (best["burst"], best["calls"])
    return {
        "same_tokens": len(drafted) == 1,
        "best": best,
        "seconds": {name: spread(samples) for name, samples in kept.items()},
        "speedup": {
            name: spread([b / a for a, b in zip(kept[burst], kept[calls], strict=True)])
            for name, (burst, calls) in pairs.items()
        },
    }


def fastest(samples_s: Mapping[str, list[float]], call: str) -> str:
    """The way of that kind (`burst` or `calls`) with the smallest median."""
    names = [name for name in samples_s if name.endswith(f"_{call}")]
    return min(names, key=lambda name: spread(samples_s[name])["median"])


if __name__ == "__main__":
    main()
