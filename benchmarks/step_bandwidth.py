"""Decode step of a 50 M-parameter fp32 draft against the time it takes merely to read its weights from memory.

    python -m benchmarks.step_bandwidth [--out FILE] [--backend onnxruntime,tvm] [--threads 1,2] [--rounds 60]

Every round times each backend with each number of threads, right after the floor of that number of threads, so that
all meet the same machine, and so that each step finds the caches filled with other data.  The share is floor / step:
1.0 would be a step that does nothing but read.

An untimed step goes before each pair: TVM's pool belongs to the calling thread, and the two sessions of a backend
change its size in turn, which no run of one draft does.  Idle pools must not take the cores from the next in turn;
`idle_cpu_share` is what the process computes while it sleeps after a step (1.0: a whole core).
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from autotune.candidate import DraftShape, Precision
from autotune.compile.base import CompileSettings, build_program, load_backend
from autotune.errors import AutotuneError
from autotune.results import Built
from autotune.runtime.session import Session, open_session
from autotune.weights import Numerics, random_weights
from benchmarks.record import machine, spread, write_record
from benchmarks.stream_reader import stream_reader

SHAPE = DraftShape(layers=4, heads=16, kv_heads=4, head_dim=64, hidden=1024, ffn=2304, vocab=8192)
NUMERICS = Numerics(family="llama", norm_eps=1e-5, rope_theta=10_000.0, context_tokens=1024)
CONTEXT_TOKENS = 64
TARGET_SHARE = 0.90
TARGET_RATIO = 1.0
"""Of a step with more threads over one with the fewest: it may not be slower."""
WARM_UP_ROUNDS = 5
IDLE_S = 0.2


class Contender(NamedTuple):
    """A backend with a number of threads."""

    backend: str
    threads: int


class Sample(NamedTuple):
    """A step and the floor right before it."""

    floor_s: float
    step_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument("--backend", default="onnxruntime,tvm", help="one or several, with commas")
    parser.add_argument("--threads", default="1,2", help="one number or several, with commas")
    parser.add_argument("--rounds", type=int, default=60, help="at least two")
    arguments = parser.parse_args()
    try:
        backends = {name: load_backend(name) for name in arguments.backend.split(",")}
        threads = sorted({int(count) for count in arguments.threads.split(",")})
    except (AutotuneError, ValueError) as error:
        parser.error(str(error))
    if threads[0] < 1 or arguments.rounds < 2:
        parser.error("give at least one thread and at least two rounds")
    facts = machine()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = random_weights(SHAPE, NUMERICS)
        settings = CompileSettings(Precision.FP32, 2 * CONTEXT_TOKENS)
        built = {backend: build_program(backend, weights, settings, folder / backend) for backend in backends}
        readers = {count: stream_reader(read_bytes(), count, folder) for count in threads}
        sessions = {
            Contender(backend, count): open_session(folder / backend, count) for count in threads for backend in built
        }
        for session in sessions.values():
            session.greedy([1] * CONTEXT_TOKENS, 0)
        samples = compare(sessions, {count: read for count, (read, _) in readers.items()}, arguments.rounds)
        idle = {contender: idle_cpu_share(session) for contender, session in sessions.items()}

    results = {
        "settings": {
            "shape": str(SHAPE),
            "parameters": SHAPE.parameters,
            "read_bytes": read_bytes(),
            "context_tokens": CONTEXT_TOKENS,
            "warm_up_rounds": WARM_UP_ROUNDS,
            "idle_s": IDLE_S,
            "reader": readers[threads[0]][1],
            "compilers": {name: dict(backend.versions()) for name, backend in backends.items()},
            "target_share": TARGET_SHARE,
            "target_ratio": TARGET_RATIO,
        },
        "floors": {plural(count): _floor(count, samples) for count in threads},
        "backends": {name: _backend(name, built[name], threads, samples, idle) for name in built},
    }
    write_record("step_bandwidth", facts, results, ("numpy",), arguments.out)


def read_bytes() -> int:
    """Bytes one decode step must read: every weight but the embedding table, and the cache of the context."""
    return SHAPE.decode_parameters * 4 + CONTEXT_TOKENS * SHAPE.kv_bytes_per_token


def compare(
    sessions: Mapping[Contender, Session], readers: Mapping[int, Callable[[], None]], rounds: int
) -> dict[Contender, list[Sample]]:
    """The samples of every contender, one a round."""
    samples: dict[Contender, list[Sample]] = {contender: [] for contender in sessions}
    for _ in range(WARM_UP_ROUNDS + rounds):
        for contender, session in sessions.items():
            step = partial(session.greedy, [1], CONTEXT_TOKENS)
            step()
            samples[contender].append(Sample(seconds(readers[contender.threads]), seconds(step)))
    return {contender: kept[WARM_UP_ROUNDS:] for contender, kept in samples.items()}


def idle_cpu_share(session: Session) -> float:
    """Cores kept busy by this process while it sleeps right after a step."""
    session.greedy([1], CONTEXT_TOKENS)
    began_s = time.process_time()
    time.sleep(IDLE_S)
    return (time.process_time() - began_s) / IDLE_S


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def plural(count: int) -> str:
    """The key of a number of threads."""
    return f"{count} thread{'s' if count > 1 else ''}"


def _floors_s(threads: int, samples: Mapping[Contender, Sequence[Sample]]) -> list[float]:
    return [each.floor_s for contender, kept in samples.items() if contender.threads == threads for each in kept]


def _floor(threads: int, samples: Mapping[Contender, Sequence[Sample]]) -> Mapping[str, Any]:
    floor_s = spread(_floors_s(threads, samples))
    return {"floor_s": floor_s, "gb_per_s": read_bytes() / floor_s["median"] / 1e9}


def _backend(
    name: str,
    built: Built,
    threads: Sequence[int],
    samples: Mapping[Contender, Sequence[Sample]],
    idle: Mapping[Contender, float],
) -> Mapping[str, Any]:
    """A backend's figures by number of threads; ratios are to the fewest threads in the same round."""
    fewest = samples[Contender(name, threads[0])]
    result: dict[str, Any] = {
        "build_s": built.build_s,
        "build_s_per_50_m_parameters": built.build_s / SHAPE.parameters * 50e6,
    }
    for count in threads:
        kept = samples[Contender(name, count)]
        step_s = spread([each.step_s for each in kept])
        share = spread(_floors_s(count, samples))["median"] / step_s["median"]
        figures = {
            "step_s": step_s,
            "share_of_floor": share,
            "share_of_floor_by_round": spread([each.floor_s / each.step_s for each in kept]),
            "share_met": share >= TARGET_SHARE,
            "idle_cpu_share": idle[Contender(name, count)],
        }
        if count != threads[0]:
            ratio = spread([more.step_s / less.step_s for more, less in zip(kept, fewest, strict=True)])
            figures[f"step_over_{plural(threads[0])}".replace(" ", "_")] = ratio
            figures["ratio_met"] = ratio["median"] <= TARGET_RATIO
        result[plural(count)] = figures
    return result


if __name__ == "__main__":
    main()
