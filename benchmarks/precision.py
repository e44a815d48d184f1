"""Steps of one draft stored at each precision of a backend, and how many times faster they are than in fp32.

    python -m benchmarks.precision [--out FILE] [--backend tvm] [--threads 1] [--rounds 60] [--widths 1,5,9]

Steps at all precisions are timed in turn (fp32, int8, int4, fp32, …), each in a session of its own, so each finds the
caches filled with the others' weights, as a draft finds them after its target.  A width of n verifies n tokens at once.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from autotune.candidate import Precision
from autotune.compile.base import BACKENDS, CompileSettings, build_program, load_backend
from autotune.runtime.session import Session, open_session
from autotune.weights import random_weights
from benchmarks.record import machine, spread, write_record
from benchmarks.step_bandwidth import CONTEXT_TOKENS, NUMERICS, SHAPE, WARM_UP_ROUNDS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument("--backend", choices=sorted(BACKENDS), default="tvm")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--widths", default="1,2,5,9", help="tokens a step decodes at once")
    arguments = parser.parse_args()
    facts = machine()
    precisions = [
        precision for precision in Precision if precision in load_backend(arguments.backend).precisions("cpu")
    ]
    weights = random_weights(SHAPE, NUMERICS)
    built, sessions = {}, {}
    with tempfile.TemporaryDirectory() as name:
        for precision in precisions:
            folder = Path(name, precision)
            settings = CompileSettings(precision, 2 * CONTEXT_TOKENS)
            built[precision] = build_program(arguments.backend, weights, settings, folder)
            sessions[precision] = open_session(folder, arguments.threads)
            sessions[precision].greedy([1] * CONTEXT_TOKENS, 0)
        widths = {width: compare(sessions, int(width), arguments.rounds) for width in arguments.widths.split(",")}
    results = {
        "settings": {
            "shape": str(SHAPE),
            "parameters": SHAPE.parameters,
            "context_tokens": CONTEXT_TOKENS,
            "threads": arguments.threads,
            "warm_up_rounds": WARM_UP_ROUNDS,
            "compiler": dict(load_backend(arguments.backend).versions()),
        },
        "weight_bytes": {precision: each.weight_bytes for precision, each in built.items()},
        "build_s": {precision: each.build_s for precision, each in built.items()},
        "tokens_at_once": widths,
    }
    write_record("precision", facts, results, ("numpy",), arguments.out)


def compare(sessions: Mapping[Precision, Session], width: int, rounds: int) -> Mapping[str, Any]:
    """Seconds of a step of that width at each precision, and the speed-up over fp32, round by round."""
    steps: dict[Precision, Callable[[], object]] = {
        precision: partial(session.greedy, [1] * width, CONTEXT_TOKENS) for precision, session in sessions.items()
    }
    samples_s: dict[Precision, list[float]] = {precision: [] for precision in steps}
    for _ in range(WARM_UP_ROUNDS + rounds):
        for precision, step in steps.items():
            began = time.perf_counter()
            step()
            samples_s[precision].append(time.perf_counter() - began)
    kept = {precision: samples[WARM_UP_ROUNDS:] for precision, samples in samples_s.items()}
    return {
        "step_s": {precision: spread(samples) for precision, samples in kept.items()},
        "speedup_over_fp32": {
            precision: spread([a / b for a, b in zip(kept[Precision.FP32], samples, strict=True)])
            for precision, samples in kept.items()
            if precision is not Precision.FP32
        },
    }


if __name__ == "__main__":
    main()
