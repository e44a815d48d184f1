"""Whole models against what is extrapolated from slices of them: the error of each way to slice.

    python -m benchmarks.slices [--out FILE] [--threads 1] [--samples 40] [--models 110m,350m,1.1b-int8] [--backends …]

A model and all its slices are programs in one process, timed in turn (A B C A B C …) after a read of foreign memory;
what is extrapolated is compared with the whole model's median of the same rounds.  `error_when_undisturbed` compares
the sum of the programs' first deciles with that of the whole model: on a machine that other work shares, it says
what is wrong with the arithmetic rather than with the samples.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autotune.candidate import DraftShape, Precision
from autotune.compile.base import CompileSettings, build_program, load_backend
from autotune.extrapolation import Slicing, slices_of, whole_seconds
from autotune.results import MeasureSettings
from autotune.runtime.session import open_session
from autotune.sampling import SamplingSettings
from autotune.slice_job import GroupRequest, measure_group
from autotune.weights import Numerics, random_weights
from benchmarks.record import machine, spread, write_record

MODELS = {
    "110m": (DraftShape(12, 12, 12, 64, 768, 3072, 32000), Precision.FP32),
    "350m": (DraftShape(24, 16, 16, 64, 1024, 2816, 32000), Precision.FP32),
    "1.1b-int8": (DraftShape(22, 32, 4, 64, 2048, 5632, 32000), Precision.INT8),
    "1.1b": (DraftShape(22, 32, 4, 64, 2048, 5632, 32000), Precision.FP32),
}
NUMERICS = Numerics(family="llama", norm_eps=1e-5, rope_theta=10_000.0, context_tokens=2048)
CONTEXT_TOKENS = 128
LOOKAHEAD = 4
EVICT_BYTES = 64 << 20
LENGTHS = (1, LOOKAHEAD + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--models", default="110m,350m,1.1b-int8", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--backends", default="tvm,onnxruntime")
    arguments = parser.parse_args()
    facts, backends = machine(), arguments.backends.split(",")
    settings = MeasureSettings(
        CONTEXT_TOKENS,
        arguments.threads,
        min_time_s=0.0,
        min_samples=arguments.samples,
        max_time_s=600.0,
        evict_bytes=EVICT_BYTES,
    )
    results = {
        "settings": {
            "context_tokens": CONTEXT_TOKENS,
            "threads": arguments.threads,
            "foreign_bytes": EVICT_BYTES,
            "compilers": {name: dict(load_backend(name).versions()) for name in backends},
        },
        "models": {
            name: {backend: measure(*MODELS[name], backend, settings) for backend in backends}
            for name in arguments.models.split(",")
        },
    }
    write_record("slices", facts, results, ("numpy",), arguments.out)


def measure(shape: DraftShape, precision: Precision, backend: str, settings: MeasureSettings) -> Mapping[str, Any]:
    """Measured and extrapolated seconds of one model, and the error of each way to slice it."""
    slicings = {slicing: slices_of(shape, slicing) for slicing in Slicing}
    shapes = list(
        dict.fromkeys([shape, *(each.shape for groups in slicings.values() for group in groups for each in group)])
    )
    with tempfile.TemporaryDirectory() as name:
        compile_settings = CompileSettings(precision, 2 * CONTEXT_TOKENS)
        sessions = []
        for index, each in enumerate(shapes):
            folder = Path(name, str(index))
            build_program(backend, random_weights(each, NUMERICS), compile_settings, folder)
            sessions.append(open_session(folder, settings.threads))
        request = GroupRequest((), LOOKAHEAD, (CONTEXT_TOKENS,), settings, 0.0, SamplingSettings())
        measured = measure_group(sessions, request)
        for session in sessions:
            session.close()
    samples = {each: program[0] for each, program in zip(shapes, measured.samples_s, strict=True)}
    whole = {n: float(np.median(samples[shape][n - 1])) for n in LENGTHS}
    ways = {}
    for slicing, groups in slicings.items():
        replicates = whole_seconds([[(each.weight, samples[each.shape]) for each in group] for group in groups])
        ways[slicing.value] = {
            f"verify_{n}": {
                "extrapolated_s": float(np.median(replicates[n - 1])),
                "interval_s": np.quantile(replicates[n - 1], [0.025, 0.975]).tolist(),
                "error": float(np.median(replicates[n - 1])) / whole[n] - 1,
                "error_when_undisturbed": sum(
                    each.weight * low(samples[each.shape][n - 1]) for group in groups for each in group
                )
                / low(samples[shape][n - 1])
                - 1,
            }
            for n in LENGTHS
        }
    return {
        "shape": str(shape),
        "parameters": shape.parameters,
        "precision": precision.value,
        "timed": measured.timed,
        "whole_s": {f"verify_{n}": spread(samples[shape][n - 1]) for n in LENGTHS},
        "ways": ways,
    }


def low(seconds: Sequence[float]) -> float:
    """The first decile."""
    return float(np.quantile(seconds, 0.1))


if __name__ == "__main__":
    main()
