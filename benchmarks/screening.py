"""What screening saves, and that it leaves the Pareto front as it is: the same searches with and without it.

    python -m benchmarks.screening [--out FILE] [--seeds 5] [--first-seed 0] [--trials 64]

Each distinct build is really compiled and measured once, then both searches of every seed are played over these same
measurements, so that they differ by what was screened and by nothing else.  `search` compares two searches whose
samplers go their own ways; `same_builds` screens the builds of the unscreened search in its own order, which leaves the
sampler out of it.  `hypervolume_ratio` is the area under the final front (tokens per round above 1, seconds below 1.1
times the longest round of the unscreened front) with screening, over that without.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotune.config import make_config
from autotune.progress import LoggingObserver
from autotune.request import resolve
from autotune.results import Screened, TrialRecord
from autotune.screening import LEAST_GAIN, LEAST_SPEEDUP, REFERENCE, Screener
from autotune.store import RunFolder
from autotune.workbench import Workbench, prepare
from benchmarks.record import machine, spread, write_record
from benchmarks.replay import Replay, area, fastest, front_of, play


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--precision", default="fp32,int8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--proxy", default="elastic")
    arguments = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory() as scratch:
        asked = {name: getattr(arguments, name) for name in ("backend", "precision", "threads", "proxy")}
        request = resolve(make_config({**asked, "database": False, "out": Path(scratch, "run")}))
        with RunFolder.open(request.config.out, request.identity(), resume=False) as folder:
            bench = prepare(request, folder, LoggingObserver())
            replay = Replay(bench.evaluator)
            chosen = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
            seeds = [compare(bench, replay, seed, arguments.trials) for seed in chosen]
    results = {
        "space": request.space.size,
        "trials": arguments.trials,
        "least_gain": LEAST_GAIN,
        "least_speedup": LEAST_SPEEDUP,
        "search": summary([seed["search"] for seed in seeds]),
        "same_builds": summary([seed["same_builds"] for seed in seeds]),
        "seeds": seeds,
    }
    write_record("screening", facts, results, ("numpy", "optuna", "onnxruntime-gpu"), arguments.out)


def compare(bench: Workbench, replay: Replay, seed: int, trials: int) -> dict[str, Any]:
    """One seed's search with and without screening."""
    without = play(bench.request.space, replay, seed, trials)
    screener = Screener(bench.latency, bench.evaluator.constraints)
    screened = play(bench.request.space, replay, seed, trials, screener)
    return {
        "seed": seed,
        "search": versus(replay, without.records, screened.records),
        "same_builds": versus(replay, without.records, screen_again(bench, replay, without.records)),
    }


def screen_again(bench: Workbench, replay: Replay, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The records of the same builds in the same order, screened."""
    screener = Screener(bench.latency, bench.evaluator.constraints)
    again = []
    for record in records:
        outcome = replay.evaluate(record.build, screener)
        again.append(TrialRecord(record.number, record.build, record.parameters, 0.0, outcome, record.params))
        screener.learn(again[-1:])
    return again


def versus(replay: Replay, without: Sequence[TrialRecord], screened: Sequence[TrialRecord]) -> dict[str, Any]:
    """What the screened records cost and found, over the others."""
    front, other = front_of(without), front_of(screened)
    longest_s = REFERENCE * front[-1].round_s.value
    compiled = [record for record in screened if not isinstance(record.outcome, Screened)]
    spared = [record for record in screened if isinstance(record.outcome, Screened)]
    cost_s, screened_cost_s = seconds(replay, without), seconds(replay, screened)
    return {
        "compiles": len(without),
        "compiles_screened": len(compiled),
        "compiles_saved": 1 - len(compiled) / len(without),
        "hypervolume_ratio": area(other, longest_s) / area(front, longest_s),
        "best_tokens_per_s_ratio": fastest(other) / fastest(front),
        "front": len(front),
        "front_screened": len(other),
        "evaluation_s": cost_s,
        "evaluation_screened_s": screened_cost_s,
        "seconds_saved": 1 - screened_cost_s / cost_s,
        "model": model_error(replay, spared),
    }


def seconds(replay: Replay, records: Sequence[TrialRecord]) -> float:
    """Seconds that evaluating the records' builds took, where they were not screened, and their acceptance else."""
    return sum(
        replay.acceptance(record.build)[1]
        + (0.0 if isinstance(record.outcome, Screened) else replay.known(record.build).latency_s)
        for record in records
    )


def model_error(replay: Replay, spared: Sequence[TrialRecord]) -> dict[str, Any]:
    """Predicted over measured burst seconds of the screened builds that some other search did measure."""
    errors, held, margins = [], [], []
    for record in spared:
        truth = replay.truth(record.build)
        assert isinstance(record.outcome, Screened)
        margins.append(record.outcome.margin)
        if truth is None:
            continue
        forecasts = record.outcome.forecasts
        measured = [truth.burst.seconds(forecast.lookahead) for forecast in forecasts]
        errors += [abs(each.burst_s.value / s - 1) for each, s in zip(forecasts, measured, strict=True)]
        held.append(all((each.burst_s.low or 0.0) <= s for each, s in zip(forecasts, measured, strict=True)))
    return {
        "screened": len(spared),
        "measured_elsewhere": len(held),
        "median_error": statistics.median(errors) if errors else None,
        "largest_error": max(errors, default=None),
        "optimistic_bound_held": sum(held) / len(held) if held else None,
        "median_margin": statistics.median(margins) if margins else None,
    }


def summary(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Spread over the seeds of what matters most."""
    names = ("compiles_saved", "hypervolume_ratio", "best_tokens_per_s_ratio", "seconds_saved")
    return {name: spread([seed[name] for seed in seeds]) for name in names if len(seeds) > 1}


if __name__ == "__main__":
    main()
