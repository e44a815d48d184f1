"""Both compilers on an NVIDIA GPU: the tests that need one, and step and burst latencies of the paper's five drafts.

    python -m benchmarks.gpu [--out FILE] [--rounds 40] [--shapes noft-1.3b,…] [--precisions fp16,bf16] [--no-tests]

The shapes are those of "Decoding Speculative Decoding" (2402.01528), with random weights: latency does not depend on
their values.  The floor under a step is the time the GPU takes to copy, within its memory, half as many bytes as a step
must read, since a copy moves each byte twice.  Floor, steps, bursts, and calls of every compiler are timed in turn
(A B C … A B C …); each round's share compares neighbours in time.  1.0 would be a step that only moves memory.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from autotune.candidate import DraftShape, Precision
from autotune.compile.base import BACKENDS, CompileSettings, build_program, load_backend
from autotune.cuda_driver import CudaDriver
from autotune.devices import Device, find_device
from autotune.errors import BadRequest
from autotune.program import Drafting
from autotune.runtime.session import Session, open_session
from autotune.shape import weight_shapes
from autotune.weights import FloatArray, ModelWeights, Numerics
from benchmarks.record import machine, spread, write_record

SHAPES = {
    "noft-1.3b": DraftShape(24, 16, 16, 128, 2048, 5504, 32000),
    "noft-wide-1.3b": DraftShape(12, 20, 20, 128, 2560, 9280, 32000),
    "noft-wide-796m": DraftShape(5, 32, 32, 128, 4096, 11008, 32000),
    "noft-wide-543m": DraftShape(3, 32, 32, 128, 4096, 11008, 32000),
    "noft-wide-290m": DraftShape(1, 32, 32, 128, 4096, 11008, 32000),
}
NUMERICS = Numerics(family="llama", norm_eps=1e-5, rope_theta=10_000.0, context_tokens=2048)
CONTEXT_TOKENS = 512
CAPACITY_TOKENS = 1024
BURSTS = (1, 4, 8)
WARM_UP_ROUNDS = 5
HALVES = ("fp16", "bf16")
HALF_BYTES = 2
_DRAWN = 1 << 20
_EXIT_NO_GPU = 2

Ways = Mapping[str, Callable[[], object]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--precisions", default=",".join(HALVES), help="what a compiler lacks is left out")
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--no-tests", action="store_true", help="only measure")
    arguments = parser.parse_args()
    try:
        device = find_device("cuda")
        shapes = chosen("--shapes", arguments.shapes, tuple(SHAPES))
        precisions = [Precision(name) for name in chosen("--precisions", arguments.precisions, HALVES)]
        backends = usable(chosen("--backends", arguments.backends, tuple(BACKENDS)))
    except BadRequest as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(_EXIT_NO_GPU)
    facts = machine() | {"gpu": device.name, "gpu_memory_bytes": device.memory_bytes, "device": device.fingerprint}
    tests = None if arguments.no_tests else run_tests()
    results = {
        "settings": {
            "context_tokens": CONTEXT_TOKENS,
            "capacity_tokens": CAPACITY_TOKENS,
            "rounds": arguments.rounds,
            "warm_up_rounds": WARM_UP_ROUNDS,
            "compilers": {name: dict(load_backend(name, "cuda").versions()) for name in backends},
        },
        "tests": tests,
        "shapes": {
            name: measure_shape(SHAPES[name], backends, precisions, arguments.rounds, device) for name in shapes
        },
    }
    write_record("gpu", facts, results, ("numpy",), arguments.out)
    if tests is not None and tests["failed"]:
        sys.exit(1)


def chosen(flag: str, given: str, known: Sequence[str]) -> list[str]:
    """The names given with commas; BadRequest if one is not known."""
    names = given.split(",")
    for name in names:
        if name not in known:
            raise BadRequest(f"{flag} {name}: choose from {', '.join(known)}")
    return names


def usable(names: Sequence[str]) -> list[str]:
    """Those of the backends that have code for CUDA; BadRequest if none has."""
    found = [name for name in names if load_backend(name, "cuda").precisions("cuda")]
    if not found:
        raise BadRequest(f"no code for cuda in {', '.join(names)}; use --backends onnxruntime")
    return found


def run_tests() -> Mapping[str, Any]:
    """How the tests marked `gpu` went, both compilers' conformance suites among them."""
    with tempfile.TemporaryDirectory() as name:
        report = Path(name, "report.xml")
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"--junitxml={report}"], stdout=sys.stderr, check=False
        )
        return tally(report.read_text())


def tally(report: str) -> Mapping[str, Any]:
    """Counts, and the names of what failed, of pytest's JUnit report."""
    cases = list(ElementTree.fromstring(report).iter("testcase"))
    failed = [
        f"{case.get('classname')}.{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {"passed": len(cases) - len(failed) - skipped, "skipped": skipped, "failed": failed}


def measure_shape(
    shape: DraftShape, backends: Sequence[str], precisions: Sequence[Precision], rounds: int, device: Device
) -> Mapping[str, Any]:
    """Latencies of one shape at every precision, against the floor of its bytes."""
    weights = cheap_weights(shape)
    return {
        "shape": str(shape),
        "parameters": shape.parameters,
        **{precision.value: measure(weights, backends, precision, rounds, device) for precision in precisions},
    }


def measure(
    weights: ModelWeights, backends: Sequence[str], precision: Precision, rounds: int, device: Device
) -> Mapping[str, Any]:
    """Latencies of every compiler that has the precision, interleaved, and their shares of the floor."""
    kind = device.kind
    asked = [name for name in backends if precision in load_backend(name, kind).precisions(kind)]
    settings = CompileSettings(precision, CAPACITY_TOKENS, kind, longest_burst=max(BURSTS))
    with tempfile.TemporaryDirectory() as name:
        built = {backend: build_program(backend, weights, settings, Path(name, backend)) for backend in asked}
        sessions, memory_bytes = opened({backend: Path(name, backend) for backend in asked})
        copier = CudaDriver().copier(read_bytes(weights.shape) // 2)
        ways: dict[str, Callable[[], object]] = {"floor": copier.copy}
        for backend, session in sessions.items():
            ways |= {f"{backend} {what}": way for what, way in ways_of(session).items()}
        samples_s = interleaved(ways, rounds)
        copier.close()
        for session in sessions.values():
            session.close()
    floor_s = samples_s["floor"]
    return {
        "read_bytes": read_bytes(weights.shape),
        "weight_bytes": weights.shape.weight_bytes(precision),
        "memory_bytes": memory_bytes,
        "build_s": {backend: each.build_s for backend, each in built.items()},
        "floor_s": spread(floor_s),
        "floor_gb_per_s": read_bytes(weights.shape) / spread(floor_s)["median"] / 1e9,
        **{
            backend: {
                what: shares(samples_s[f"{backend} {what}"], floor_s, steps_of(what)) for what in ways_of(session)
            }
            for backend, session in sessions.items()
        },
    }


def opened(folders: Mapping[str, Path]) -> tuple[Mapping[str, Session], Mapping[str, int]]:
    """A session of each program behind its context, and what memory each takes once everything that is timed has run.

    Sessions that hold the weights more than once would show in the latter.
    """
    sessions, memory_bytes, driver = {}, {}, CudaDriver()
    for backend, folder in folders.items():
        free_bytes = driver.free_bytes()
        sessions[backend] = open_session(folder, threads=1)
        sessions[backend].greedy([1] * CONTEXT_TOKENS, 0)
        for way in ways_of(sessions[backend]).values():
            way()
        memory_bytes[backend] = free_bytes - driver.free_bytes()
    return sessions, memory_bytes


def ways_of(session: Session) -> Ways:
    """What is timed of a session: a step, and bursts as one program and as calls, all behind the same context."""

    def burst(drafting: Drafting, count: int) -> Callable[[], object]:
        def run() -> None:
            session.drafting = drafting
            session.burst([1], CONTEXT_TOKENS, count)

        return run

    return {
        "step": lambda: session.greedy([1], CONTEXT_TOKENS),
        **{f"burst of {count}": burst(Drafting.BURST, count) for count in BURSTS},
        **{f"calls of {count}": burst(Drafting.CALLS, count) for count in BURSTS},
    }


def steps_of(what: str) -> int:
    """How many steps a way takes."""
    return 1 if what == "step" else int(what.rpartition(" ")[2])


def shares(samples_s: Sequence[float], floor_s: Sequence[float], steps: int) -> Mapping[str, Any]:
    """The seconds of a way, and its share of the floor of its steps, round by round."""
    return {
        "seconds": spread(samples_s),
        "share_of_floor": spread([steps * floor / taken for floor, taken in zip(floor_s, samples_s, strict=True)]),
    }


def interleaved(ways: Ways, rounds: int) -> Mapping[str, Sequence[float]]:
    """Seconds of every way in every round, the ways in turn; the first rounds only warm up."""
    samples_s: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(WARM_UP_ROUNDS + rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            samples_s[name].append(time.perf_counter() - began)
    return {name: samples[WARM_UP_ROUNDS:] for name, samples in samples_s.items()}


def read_bytes(shape: DraftShape) -> int:
    """Bytes one step must read: every weight but the embedding table, and the keys and values of the context."""
    return shape.decode_parameters * HALF_BYTES + CONTEXT_TOKENS * shape.kv_bytes_per_token // 2


def cheap_weights(shape: DraftShape) -> ModelWeights:
    """Weights of the right sizes from few random numbers; all layers share the arrays of the first."""
    drawn = np.random.default_rng(0).standard_normal(_DRAWN, dtype=np.float32)
    arrays: dict[str, FloatArray] = {}
    for name, size in weight_shapes(shape):
        first = ".".join(["layers", "0", *name.split(".")[2:]]) if name.startswith("layers.") else name
        if first in arrays:
            arrays[name] = arrays[first]
        elif len(size) == 1:
            arrays[name] = np.ones(size, np.float32)
        else:
            arrays[name] = np.resize(drawn / np.float32(np.sqrt(size[1])), size)
    return ModelWeights(shape, NUMERICS, arrays)


if __name__ == "__main__":
    main()
