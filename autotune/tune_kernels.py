"""Tuning the winner's kernels: search in a sandbox, compare the tuned program with the untuned one, keep the faster.

Whatever goes wrong, the untuned winner ships.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from autotune.backends import TUNED_BACKEND
from autotune.compile.kernel_tuning import Tuned, TuningRequest, tune_sandboxed
from autotune.compile.sandbox import Limits
from autotune.devices import device_lock
from autotune.finalists import Finalist
from autotune.paired import Comparison, PairedRequest, compare_sandboxed, speedup
from autotune.progress import Observer
from autotune.results import KernelTuning, Rejected, Validated
from autotune.workbench import Workbench

GRACE_S = 120.0
"""How much longer than its budget the tuner may take: the last schedule, and building the tuned program."""


@dataclass(frozen=True)
class Steps:
    """What tuning consists of; each may fail without harm."""

    tune: Callable[[TuningRequest], Tuned | Rejected]
    compare: Callable[[str, str], Comparison | Rejected]
    """Of an untuned and a tuned program."""


def tune_winner(
    bench: Workbench, finalist: Finalist, validated: Validated, folder: Path, observer: Observer
) -> tuple[Finalist, KernelTuning | None]:
    """The finalist to ship, with the tuned program if that is faster, and what tuning came to.

    folder: where the tuned program goes; it does not exist yet.  The finalist must be the validated one.
    """
    config = bench.request.config
    if validated.build.backend != TUNED_BACKEND:
        observer.note(f"--tune-kernels tunes TVM programs; the winner is {validated.build.backend}'s")
        return finalist, None
    observer.phase(f"Tuning kernels of {validated.build}")
    device, limits = bench.request.device.kind, bench.evaluator.limits
    measuring = bench.evaluator.measuring

    def compare(before: str, after: str) -> Comparison | Rejected:
        request = PairedRequest(before, after, validated.lookahead, measuring, config.sampling, config.seed)
        return compare_sandboxed(request, limits.run, device_lock(device))

    def tune(request: TuningRequest) -> Tuned | Rejected:
        patience = Limits(request.budget_s + GRACE_S, limits.build.memory_bytes, limits.build.queue_s)
        return tune_sandboxed(request, patience, device_lock(device))

    request = TuningRequest(str(finalist.program), str(folder), config.tune_kernels, bench.threads, config.seed)
    tuning = judge(request, Steps(tune, compare))
    observer.note(describe(tuning))
    return replace(finalist, program=folder) if tuning.kept else finalist, tuning


def judge(request: TuningRequest, steps: Steps) -> KernelTuning:
    """What tuning comes to: kept only if the tuned program answers alike and its interval lies above 1."""
    tuned = steps.tune(request)
    if isinstance(tuned, Rejected):
        return KernelTuning(False, f"the tuner failed: {tuned.reason.value}, {tuned.detail}", 0, 0.0)
    told = {name: str(schedule) for name, schedule in tuned.schedules.items()}
    found = KernelTuning(False, "no schedule was faster than the default one", tuned.tried, tuned.seconds, None, told)
    if not tuned.schedules:
        return found
    compared = steps.compare(request.program, request.tuned_program)
    if isinstance(compared, Rejected):
        return replace(found, detail=f"the comparison failed: {compared.reason.value}, {compared.detail}")
    if not compared.same:
        drafts = "" if compared.same_drafts else ", and other tokens are drafted"
        return replace(found, detail=f"logits differ by {compared.logits_difference:.1e} of the largest{drafts}")
    figure = speedup(compared, request.seed)
    if figure.low is None or figure.low <= 1.0:
        return replace(found, detail="not faster beyond the noise", speedup=figure)
    return replace(found, kept=True, detail="faster in a paired measurement", speedup=figure)


def describe(tuning: KernelTuning) -> str:
    """What tuning came to, in one line."""
    verdict = "kept" if tuning.kept else "not kept"
    ratio = ""
    if tuning.speedup is not None:
        low, high = tuning.speedup.low, tuning.speedup.high
        ratio = f" {tuning.speedup.value:.3f}× the untuned burst's speed ({low:.3f} … {high:.3f});"
    return f"tuned kernels:{ratio} {verdict}: {tuning.detail}; {tuning.tried} schedules tried in {tuning.seconds:.0f} s"
