"""What `--tune-kernels` gives: drafts tuned within a budget, against the untuned programs in a paired measurement.

    python -m benchmarks.tune_kernels [--out FILE] [--budget 60] [--threads 1] [--shapes demo 5M 50M] [--precision fp32]

The ratio is the untuned burst's latency over the tuned one's, with its bootstrap interval; a tuned program is kept only
if the whole interval lies above 1.
"""

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path

from autotune.candidate import DraftShape, Precision
from autotune.compile.base import CompileSettings, build_program
from autotune.compile.kernel_tuning import TuningRequest, tune_sandboxed
from autotune.compile.sandbox import Limits
from autotune.devices import device_lock
from autotune.paired import Comparison, PairedRequest, compare_sandboxed
from autotune.results import MeasureSettings, Rejected
from autotune.sampling import SamplingSettings
from autotune.tune_kernels import GRACE_S, Steps, describe, judge
from autotune.weights import Numerics, random_weights
from benchmarks.record import machine, write_record

SHAPES = {
    "demo": DraftShape(layers=1, heads=4, kv_heads=4, head_dim=32, hidden=128, ffn=352, vocab=1024),
    "5M": DraftShape(layers=4, heads=4, kv_heads=4, head_dim=64, hidden=256, ffn=704, vocab=4096),
    "50M": DraftShape(layers=4, heads=16, kv_heads=4, head_dim=64, hidden=1024, ffn=2304, vocab=8192),
}
NUMERICS = Numerics(family="llama", norm_eps=1e-5, rope_theta=10_000.0, context_tokens=512)
LOOKAHEAD = 4
EVICT_BYTES = 32 << 20
"""About what a small target's weights leave of a draft in the caches."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of tuning for each shape")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=list(SHAPES))
    parser.add_argument("--precision", type=Precision, default=Precision.FP32)
    arguments = parser.parse_args()
    facts, lock, results = machine(), device_lock("cpu"), {}
    settings = MeasureSettings(context_tokens=128, threads=arguments.threads, evict_bytes=EVICT_BYTES)

    def compare(before: str, after: str) -> Comparison | Rejected:
        request = PairedRequest(before, after, LOOKAHEAD, settings, SamplingSettings())
        return compare_sandboxed(request, Limits(120.0), lock)

    for name in arguments.shapes:
        with tempfile.TemporaryDirectory() as folder:
            untuned, tuned = Path(folder, "untuned"), Path(folder, "tuned")
            weights = random_weights(SHAPES[name], NUMERICS)
            build_program("tvm", weights, CompileSettings(arguments.precision, NUMERICS.context_tokens), untuned)
            request = TuningRequest(str(untuned), str(tuned), arguments.budget, arguments.threads, 0)
            limits = Limits(arguments.budget + GRACE_S)
            tuning = judge(request, Steps(lambda given, limits=limits: tune_sandboxed(given, limits, lock), compare))  # type: ignore[misc]
            print(f"{name}: {describe(tuning)}")
            results[name] = {"parameters": SHAPES[name].parameters, **asdict(tuning)}
    measured = {"lookahead": LOOKAHEAD, "threads": arguments.threads, "precision": arguments.precision.value}
    write_record("tune_kernels", facts, measured | {"shapes": results}, ["apache-tvm", "apache-tvm-ffi"], arguments.out)


if __name__ == "__main__":
    main()
