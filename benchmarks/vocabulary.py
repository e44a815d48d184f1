"""What a trimmed draft vocabulary saves, and what it costs.

    python -m benchmarks.vocabulary [--out FILE] [--parts latency,demo] [--backends onnxruntime,tvm] [--rounds 20]

*latency*: bytes and decode step of a NoFT-like draft with random weights, its head whole and trimmed.  Two layers of
width 2048 with a vocabulary of 32,000 have the proportions of NoFT-Wide-290M (1 layer of 4096): the head is 39 % of
what a step reads.  Whole and trimmed step in turn (A B A B), in sessions of their own; ratios compare neighbours.

*demo*: tokens per round and predicted tokens/s of the demo's best draft shape with its vocabulary of 2048 whole and
trimmed, from the evaluation that a run makes (elastic source, estimation traces, compiled and measured), several times
in turn.
"""

import argparse
import gc
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from autotune.candidate import Build, DraftShape, Precision
from autotune.compile.base import CompileSettings, build_program, load_backend
from autotune.config import make_config
from autotune.progress import LoggingObserver
from autotune.request import resolve
from autotune.results import Measured, Rejected, Screened
from autotune.runtime.session import Session, open_session
from autotune.store import RunFolder
from autotune.weights import ModelWeights, Numerics, random_weights, trimmed
from autotune.workbench import Workbench, prepare
from benchmarks.record import machine, spread, write_record

SHAPE = DraftShape(layers=2, heads=16, kv_heads=16, head_dim=128, hidden=2048, ffn=5504, vocab=32_000)
HEADS = {32_000: (4096, 8192, 16_384), 128_256: (8192, 16_384, 32_768)}
"""Vocabularies, and the sizes they are trimmed to."""
NUMERICS = Numerics(family="llama", norm_eps=1e-5, rope_theta=10_000.0, context_tokens=1024)
CONTEXT_TOKENS = 64
WARM_UP_ROUNDS = 3

DEMO_SHAPE: Mapping[str, Any] = {"layers": 2, "ffn": 192}
"""Of the source's other units, all: the draft that the example report ships."""
DEMO_HEADS = (None, 1024, 512, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument("--parts", default="latency,demo")
    parser.add_argument("--backends", default="onnxruntime,tvm")
    parser.add_argument("--precisions", default="fp32,int8", help="those that a backend lacks are left out")
    parser.add_argument("--vocabularies", default=",".join(map(str, HEADS)), help="of the latency part")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20, help="steps of each program")
    parser.add_argument("--evaluations", type=int, default=3, help="of each of the demo's drafts")
    arguments = parser.parse_args()
    facts = machine()
    backends = arguments.backends.split(",")
    precisions = [Precision(name) for name in arguments.precisions.split(",")]
    programs = [
        (backend, precision)
        for backend in backends
        for precision in precisions
        if precision in load_backend(backend).precisions("cpu")
    ]
    results: dict[str, Any] = {
        "settings": {
            "context_tokens": CONTEXT_TOKENS,
            "threads": arguments.threads,
            "warm_up_rounds": WARM_UP_ROUNDS,
            "compilers": {name: dict(load_backend(name).versions()) for name in backends},
        }
    }
    parts = arguments.parts.split(",")
    if "latency" in parts:
        results["latency"] = {
            f"vocabulary {vocab}": latency(int(vocab), programs, arguments.threads, arguments.rounds)
            for vocab in arguments.vocabularies.split(",")
        }
    if "demo" in parts:
        results["demo"] = demo(programs, arguments.threads, arguments.evaluations)
    write_record("vocabulary", facts, results, ("numpy", "torch"), arguments.out)


def latency(
    vocab: int, programs: Sequence[tuple[str, Precision]], threads: int, rounds: int
) -> Mapping[str, Mapping[str, Any]]:
    """Bytes and step times of the NoFT-like draft, by program and size of the head."""
    shape = replace(SHAPE, vocab=vocab)
    weights = random_weights(shape, NUMERICS)
    results: dict[str, Mapping[str, Any]] = {"shape": {"name": str(shape), "parameters": shape.parameters}}
    for backend, precision in programs:
        with tempfile.TemporaryDirectory() as name:
            results[f"{backend} {precision}"] = _compare_heads(weights, backend, precision, Path(name), threads, rounds)
    return results


def _compare_heads(
    weights: ModelWeights, backend: str, precision: Precision, folder: Path, threads: int, rounds: int
) -> Mapping[str, Any]:
    """The whole head and each trimmed one, a pair of sessions at a time: they are large."""
    settings = CompileSettings(precision, 2 * CONTEXT_TOKENS)
    vocab = weights.shape.vocab
    build_program(backend, weights, settings, folder / "full")
    result: dict[str, Any] = {"full": _bytes(weights.shape, precision)}
    full_steps: list[float] = []
    for size in HEADS[vocab]:
        # Ids spread over the vocabulary, as frequent ones are; which they are does not matter to the time.
        draft = trimmed(weights, np.linspace(0, vocab - 1, size).astype(np.int64))
        build_program(backend, draft, settings, folder / str(size))
        sessions = [open_session(folder / name, threads) for name in ("full", str(size))]
        full_s, trimmed_s = _steps_in_turn(sessions, rounds)
        for session in sessions:
            session.close()
        del sessions, draft
        gc.collect()
        shutil.rmtree(folder / str(size))
        full_steps += full_s
        result[str(size)] = {
            **_bytes(replace(weights.shape, draft_vocab=size), precision),
            "step_s": spread(trimmed_s),
            "full_step_over_this": spread([a / b for a, b in zip(full_s, trimmed_s, strict=True)]),
        }
    result["full"]["step_s"] = spread(full_steps)
    return result


def _bytes(shape: DraftShape, precision: Precision) -> dict[str, int]:
    embedding = shape.vocab * shape.hidden * precision.other_bytes
    return {
        "parameters": shape.parameters,
        "weight_bytes": shape.weight_bytes(precision),
        "bytes_read_for_a_step": shape.weight_bytes(precision) - embedding,
    }


def _steps_in_turn(sessions: Sequence[Session], rounds: int) -> list[list[float]]:
    """Seconds of single greedy steps of every session, round robin."""
    for session in sessions:
        session.greedy([1] * CONTEXT_TOKENS, 0)
    samples_s: list[list[float]] = [[] for _ in sessions]
    for _ in range(WARM_UP_ROUNDS + rounds):
        for session, samples in zip(sessions, samples_s, strict=True):
            began = time.perf_counter()
            session.greedy([1], CONTEXT_TOKENS)
            samples.append(time.perf_counter() - began)
    return [samples[WARM_UP_ROUNDS:] for samples in samples_s]


def demo(programs: Sequence[tuple[str, Precision]], threads: int, evaluations: int) -> Mapping[str, Any]:
    """TAR(k), burst times and predicted tokens/s of the demo's best shape, by program and size of the head."""
    backends = tuple(dict.fromkeys(backend for backend, _ in programs))
    precisions = tuple(dict.fromkeys(precision for _, precision in programs))
    with tempfile.TemporaryDirectory() as name:
        config = make_config({"out": name, "threads": threads, "backend": backends, "precision": precisions})
        request = resolve(config)
        with RunFolder.open(Path(name, "run"), request.identity(), resume=False) as folder:
            bench = prepare(request, folder, LoggingObserver())
            shapes = [replace(request.source.shape, **DEMO_SHAPE, draft_vocab=size) for size in DEMO_HEADS]
            builds = [Build(shape, *program) for program in programs for shape in shapes]
            outcomes: dict[Build, list[Measured]] = {build: [] for build in builds}
            for _ in range(evaluations):
                for build in builds:
                    outcome = bench.evaluator.evaluate(build)
                    assert not isinstance(outcome, Screened), "nothing screens here"
                    if isinstance(outcome, Rejected):
                        raise SystemExit(f"{build}: {outcome.reason.value}, {outcome.detail}")
                    outcomes[build].append(outcome)
            return {
                "target_alone_tokens_per_s": 1 / bench.latency.step_s,
                "drafts": {str(build): _worth(bench, build, outcomes[build]) for build in builds},
            }


def _worth(bench: Workbench, build: Build, outcomes: Sequence[Measured]) -> Mapping[str, Any]:
    """What a build came to: medians over its evaluations."""
    kept = bench.own_text.estimator.vocabulary.kept(build.shape)
    written = np.concatenate([trace.continuation for trace in bench.own_text.traces.estimate.items])
    acceptance = outcomes[0].acceptance
    lookaheads = [score.lookahead for score in outcomes[0].scores]
    speeds = {
        k: median(outcome.scores[place].tokens_per_s.value for outcome in outcomes)
        for place, k in enumerate(lookaheads)
    }
    best = max(speeds, key=lambda k: speeds[k])
    return {
        **_bytes(build.shape, build.precision),
        "share_of_written_tokens_covered": 1.0 if kept is None else float(np.isin(written, kept).mean()),
        "tokens_per_round": {k: acceptance.tokens_per_round(k) for k in lookaheads},
        "burst_s": {k: median(outcome.burst.seconds(k) for outcome in outcomes) for k in lookaheads},
        "predicted_tokens_per_s": speeds,
        "best_lookahead": best,
        "best_predicted_tokens_per_s": speeds[best],
        "best_predicted_speedup": speeds[best] * bench.latency.step_s,
        "evaluations": len(outcomes),
    }


if __name__ == "__main__":
    main()
