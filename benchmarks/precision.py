"""What each precision of each backend gains, and what it costs in tokens per round.

    python -m benchmarks.precision [--out FILE] [--parts latency,demo] [--backend onnxruntime,tvm] [--threads 1]
                                   [--rounds 60] [--widths 1,2,5,9]

*latency*: steps of one draft of 50 M parameters, and how many times faster they are than the same backend's in fp32.
Steps of all backends and precisions are timed in turn, each in a session of its own, so each finds the caches filled
with the others' weights, as a draft finds them after its target.  A width of n verifies n tokens at once.

*demo*: estimated tokens per round of the demo's best draft shape with its weights as each precision stores them, and
the loss against fp32.  The draft is a slice of the elastic source that `autotune run --target demo` trains (before the
finishing that only winners get), judged on that run's estimation traces; traces and source come from the cache folder,
and are made there first if it has none.  What ONNX Runtime's int8 loses by quantising activations too is not in it.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from autotune.acceptance import count_acceptance
from autotune.candidate import Precision
from autotune.compile.base import CompileSettings, build_program, load_backend
from autotune.config import make_config
from autotune.errors import AutotuneError
from autotune.programs import compile_target
from autotune.progress import LoggingObserver
from autotune.proxy.score_traces import acceptance_of
from autotune.request import resolve
from autotune.results import Acceptance
from autotune.runtime.session import Session, open_session
from autotune.text import record_workload, train_estimator
from autotune.weights import random_weights
from benchmarks.record import machine, spread, write_record
from benchmarks.step_bandwidth import CONTEXT_TOKENS, NUMERICS, SHAPE, WARM_UP_ROUNDS
from benchmarks.vocabulary import DEMO_SHAPE

Program = tuple[str, Precision]

TARGET_SPEEDUP = 2.5
"""Of a step in int8, one token at a time."""
MAX_LOOKAHEAD = 8
RESAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument("--parts", default="latency,demo")
    parser.add_argument("--backend", default="onnxruntime,tvm", help="one or several, with commas")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--widths", default="1,2,5,9", help="tokens a step decodes at once")
    arguments = parser.parse_args()
    try:
        backends = {name: load_backend(name) for name in arguments.backend.split(",")}
        widths = [int(width) for width in arguments.widths.split(",")]
    except (AutotuneError, ValueError) as error:
        parser.error(str(error))
    facts = machine()
    programs = [
        (name, precision)
        for name, backend in backends.items()
        for precision in Precision
        if precision in backend.precisions("cpu")
    ]
    results: dict[str, Any] = {
        "settings": {
            "context_tokens": CONTEXT_TOKENS,
            "threads": arguments.threads,
            "warm_up_rounds": WARM_UP_ROUNDS,
            "compilers": {name: dict(backend.versions()) for name, backend in backends.items()},
        }
    }
    parts = arguments.parts.split(",")
    if "latency" in parts:
        results["latency"] = latency(programs, arguments.threads, widths, arguments.rounds)
    if "demo" in parts:
        results["demo"] = demo([p for p in Precision if any(p is precision for _, precision in programs)])
    write_record("precision", facts, results, ("numpy", "torch"), arguments.out)


def latency(programs: Sequence[Program], threads: int, widths: Sequence[int], rounds: int) -> Mapping[str, Any]:
    """Bytes, build times and steps of the large draft, by backend and precision."""
    weights = random_weights(SHAPE, NUMERICS)
    built, sessions = {}, {}
    with tempfile.TemporaryDirectory() as name:
        for program in programs:
            backend, precision = program
            folder = Path(name, backend, precision)
            folder.parent.mkdir(exist_ok=True)
            settings = CompileSettings(precision, 2 * CONTEXT_TOKENS)
            built[program] = build_program(backend, weights, settings, folder)
            sessions[program] = open_session(folder, threads)
            sessions[program].greedy([1] * CONTEXT_TOKENS, 0)
        steps_s = {width: steps_in_turn(sessions, width, rounds) for width in widths}
    result: dict[str, Any] = {"shape": str(SHAPE), "parameters": SHAPE.parameters, "target_int8": TARGET_SPEEDUP}
    for backend, precision in programs:
        program = (backend, precision)
        result.setdefault(backend, {})[precision] = {
            "weight_bytes": built[program].weight_bytes,
            "build_s": built[program].build_s,
            "tokens_at_once": {
                width: _step(samples[program], samples[backend, Precision.FP32]) for width, samples in steps_s.items()
            },
        }
    return result


def steps_in_turn(sessions: Mapping[Program, Session], width: int, rounds: int) -> Mapping[Program, list[float]]:
    """Seconds of steps of that width of every program, one a round."""
    steps: dict[Program, Callable[[], object]] = {
        program: partial(session.greedy, [1] * width, CONTEXT_TOKENS) for program, session in sessions.items()
    }
    samples_s: dict[Program, list[float]] = {program: [] for program in steps}
    for _ in range(WARM_UP_ROUNDS + rounds):
        for program, step in steps.items():
            began = time.perf_counter()
            step()
            samples_s[program].append(time.perf_counter() - began)
    return {program: samples[WARM_UP_ROUNDS:] for program, samples in samples_s.items()}


def _step(step_s: Sequence[float], fp32_s: Sequence[float]) -> Mapping[str, Any]:
    """The step's spread, and its speed-up over fp32, round by round."""
    return {
        "step_s": spread(step_s),
        "speedup_over_fp32": spread([fp32 / own for fp32, own in zip(fp32_s, step_s, strict=True)]),
    }


def demo(precisions: Sequence[Precision]) -> Mapping[str, Any]:
    """Estimated TAR(k) of the demo's best shape at each precision, and the loss against fp32 in percent."""
    request = resolve(make_config({"target": "demo"}))
    observer = LoggingObserver()
    program = compile_target(request.whole_target, request.target_backend, request.context_tokens)
    traces = record_workload(request, program, request.training_threads, observer)
    shape = replace(request.source.shape, **DEMO_SHAPE)
    weights = train_estimator(request, traces.train, observer).weights(shape)
    acceptances = {
        precision: count_acceptance(acceptance_of(weights, traces.estimate, precision=precision), MAX_LOOKAHEAD)
        for precision in precisions
    }
    exact = acceptances[Precision.FP32]
    return {
        "shape": str(shape),
        "parameters": shape.parameters,
        "evidence": "estimated: one teacher-forced pass over the estimation traces, with the weights as stored",
        "draft": f"elastic source of {request.config.elastic_budget:g} s, sliced, not finished; cached by content",
        "traces": len(exact.tokens),
        "tokens": sum(exact.tokens),
        "tokens_per_round": {
            precision: {k: each.tokens_per_round(k) for k in range(1, MAX_LOOKAHEAD + 1)}
            for precision, each in acceptances.items()
        },
        "loss_percent": {
            precision: {k: _loss_percent(exact, each, k) for k in range(1, MAX_LOOKAHEAD + 1)}
            for precision, each in acceptances.items()
            if precision is not Precision.FP32
        },
    }


def _loss_percent(exact: Acceptance, quantised: Acceptance, lookahead: int) -> Mapping[str, float]:
    """What of fp32's tokens per round is lost, with a 95 % interval from resampling traces (both drafts' together)."""
    rounds = np.array([[a[lookahead], b[lookahead]] for a, b in zip(exact.rounds, quantised.rounds, strict=True)])
    drawn = np.random.default_rng(0).integers(len(rounds), size=(RESAMPLES, len(rounds)))
    exact_rounds, quantised_rounds = rounds[drawn].sum(axis=1).T
    low, high = np.quantile(100 * (1 - exact_rounds / quantised_rounds), [0.025, 0.975])
    lost = 1 - quantised.tokens_per_round(lookahead) / exact.tokens_per_round(lookahead)
    return {"loss": 100 * lost, "low": float(low), "high": float(high)}


if __name__ == "__main__":
    main()
