"""How long the report of a run of many builds takes to write and to open, and how large its page is.

    python -m benchmarks.report_page [--builds 500] [--repeats 3] [--out FILE]

The run is made up: shapes of a small model with plausible latencies and acceptance, each scored at k = 1 … 8, a tenth
of them failed.  Times of the browser are its own clock's, from the start of the navigation: `interactive` when the
first chart and the table answer, `drawn` when the last chart stands.  The first writing also puts the charts' scripts
together, which later ones find in the cache.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from autotune.candidate import Build, DraftShape, Precision
from autotune.pareto import pareto_front
from autotune.reports.facts import RunFacts
from autotune.reports.page.page import PAGE_FILE
from autotune.reports.report import write_report
from autotune.results import (
    Acceptance,
    LatencyTable,
    Measured,
    MeasureSettings,
    Outcome,
    Rejected,
    RejectReason,
    TargetLatency,
    TrialRecord,
)
from autotune.score import score_lookahead, score_target_alone
from benchmarks.record import machine, spread, write_record

LOOKAHEADS = range(1, 9)
MOST_WRITE_S, MOST_INTERACTIVE_S, MOST_BYTES = 5.0, 2.0, 3 * 2**20
SETTINGS = MeasureSettings(context_tokens=128, threads=1)
STEP_S = 1.1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument("--builds", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3, help="at least two")
    arguments = parser.parse_args()
    chromium = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
    if chromium is None:
        parser.error("no Chromium is installed")
    if arguments.repeats < 2 or arguments.builds < 1:
        parser.error("give at least one build and two repeats")
    facts = machine()
    run = made_up_run(arguments.builds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "report"
        writes = [timed_write(run, folder) for _ in range(arguments.repeats + 1)]
        visits = [visit(folder / PAGE_FILE, chromium) for _ in range(arguments.repeats)]
        page_bytes = (folder / PAGE_FILE).stat().st_size
    results = {
        "settings": {"builds": arguments.builds, "points": sum(len(record.scores) for record in run.records)},
        "limits": {"write_s": MOST_WRITE_S, "interactive_s": MOST_INTERACTIVE_S, "page_bytes": MOST_BYTES},
        "first_write_s": writes[0],
        "write_s": spread(writes[1:]),
        "page_bytes": page_bytes,
        "interactive_s": spread([interactive_s for interactive_s, _ in visits]),
        "drawn_s": spread([drawn_s for _, drawn_s in visits]),
    }
    write_record("report_page", facts, results, ("altair", "vl-convert-python"), arguments.out)


def timed_write(run: RunFacts, folder: Path) -> float:
    """Seconds it takes to write the whole report."""
    began_s = time.perf_counter()
    write_report(run, folder)
    return time.perf_counter() - began_s


def visit(page: Path, chromium: str) -> tuple[float, float]:
    """Seconds until the page is interactive, and until it is drawn, in a fresh browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(page.as_uri())
        root = tab.locator("html[data-drawn]")
        root.wait_for(state="attached", timeout=60_000)
        times = [float(root.get_attribute(f"data-{name}") or "nan") / 1e3 for name in ("interactive", "drawn")]
        browser.close()
    return times[0], times[1]


def made_up_run(builds: int) -> RunFacts:
    rng = np.random.default_rng(0)
    target = TargetLatency(table([STEP_S * (1 + 0.03 * n) for n in range(len(LOOKAHEADS) + 1)]), 3e-5, 0.0)
    records = [made_up_trial(number, rng, target) for number in range(builds)]
    scored = [(record, score) for record in records for score in record.scores]
    return RunFacts(
        target="made up",
        source="made up",
        device="cpu:none",
        latency=target,
        baseline=score_target_alone(target).tokens_per_s,
        records=records,
        front=pareto_front(scored, lambda point: point[1]),
        validated=[],
        chosen=None,
        wall_s=0.0,
        seed=0,
    )


def made_up_trial(number: int, rng: np.random.Generator, target: TargetLatency) -> TrialRecord:
    heads, layers = int(rng.integers(1, 5)), int(rng.integers(1, 9))
    shape = DraftShape(layers, heads, heads, 32, int(rng.choice([64, 96, 128])), int(rng.integers(4, 23)) * 16, 2048)
    build = Build(shape, str(rng.choice(["onnxruntime", "tvm"])), Precision(rng.choice(["fp32", "int8"])))
    outcome: Outcome = Rejected(RejectReason.BUILD_TIMEOUT, "killed after 60 s", "compiling\n" * 20)
    if rng.random() > 0.1:
        outcome = made_up_measurement(shape, rng, target)
    return TrialRecord(number, build, shape.parameters, 2.5, outcome)


def made_up_measurement(shape: DraftShape, rng: np.random.Generator, target: TargetLatency) -> Measured:
    burst = table([k * (2.5e-5 + 1e-4 * shape.layers * rng.uniform(0.6, 1.0)) for k in LOOKAHEADS])
    kept = 0.9 - 0.13 / shape.layers - 0.1 * (1 - shape.ffn / 352) + rng.normal(0, 0.01)
    tokens = rng.integers(50, 150, 30)
    rounds = [[int(n) / sum(kept**i for i in range(k + 1)) for k in (0, *LOOKAHEADS)] for n in tokens]
    acceptance = Acceptance(tuple(map(int, tokens)), tuple(map(tuple, rounds)), (1.0,) * 8, (1.0,) * 8)
    scores = tuple(score_lookahead(acceptance, burst, target, k) for k in LOOKAHEADS)
    return Measured(acceptance, burst, 1.2, scores)


def table(seconds: list[float]) -> LatencyTable:
    return LatencyTable(tuple((0.98 * s, s, 1.03 * s) for s in seconds), SETTINGS, "cpu:none")


if __name__ == "__main__":
    main()
