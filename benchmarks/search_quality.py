"""How good every sampler is: searches of a space whose every build was measured, against the best there is in it.

    python -m benchmarks.search_quality [--truth FILE] [--out FILE] [--seeds 10] [--samplers tpe,nsga2,gp,random]

All builds of a small space of the demo (192: depths, heads, FFN sizes, widths, two precisions) are compiled and
measured once, in random order, and their acceptance is estimated once; `--truth` keeps that in a file, from which a
stopped measurement goes on, and a repeated run starts.  Then the real search is played over these measurements,
without screening, by each sampler with each seed, and judged after 10, 25 and 50 % of the builds:

* `regret`: the share of the best tokens/s of all builds that the best build found lacks;
* `hypervolume`: the area under the found front (tokens per round above 1, seconds below 1.1 times the longest round of
  the exhaustive front), over that under the exhaustive one.

A search knows no budget, so that its first tenth is the search with a tenth of the budget.  `without_seeds` are
searches that do not begin with the space's own proposals (but for one).  `asking_s` are seconds from one evaluated
build to the next, all of them the search's own: proposals, known ones included, and what the study is told.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast, get_args

from autotune.candidate import Candidate
from autotune.pareto import pareto_front
from autotune.progress import SearchStatus
from autotune.results import Score, TrialRecord
from autotune.samplers import AUTO, DEFAULT, SamplerName, check_sampler
from autotune.screening import REFERENCE
from autotune.search_space.space import SearchSpace
from benchmarks.record import machine, write_record
from benchmarks.replay import Recorded, area, fastest, front_of, play
from benchmarks.truth import Truth, find_truth, space_of

ASKED: dict[str, Any] = {
    "layers": "1,2,3,4,6,8",
    "heads": "2,4",
    "ffn": "88,176,264,352",
    "hidden": "96,128",
    "lookahead": "0:8",
    "backend": "onnxruntime",
    "precision": "fp32,int8",
    "threads": 1,
    "proxy": "elastic",
}
SHARES = (0.10, 0.25, 0.50)
GOAL = {"share": 0.25, "regret": 0.02, "hypervolume": 0.98}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument("--truth", type=Path, help="file that keeps the measurements of all builds")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--samplers", default=",".join(name for name in get_args(SamplerName) if name != AUTO))
    parser.add_argument("--unseeded", default=f"{DEFAULT},random", help="samplers that also search without seeds")
    arguments = parser.parse_args()
    for name in _names(arguments.samplers) + _names(arguments.unseeded):
        check_sampler(name)
    facts = machine()
    truth = find_truth(ASKED, facts, arguments.truth)
    space = space_of(ASKED)
    best = Best.of(truth)
    tables: dict[str, Any] = {}
    for table, names, searched in (
        ("samplers", arguments.samplers, space),
        ("without_seeds", arguments.unseeded, Unseeded(**vars(space))),
    ):
        chosen = _names(names)
        tables[table] = {name: judge(searched, truth, best, name, range(arguments.seeds)) for name in chosen}
    results = {
        "space": ASKED,
        "builds": len(truth.outcomes),
        "truth": {
            "date": truth.date,
            "load_average_before": truth.machine.get("load_average_before"),
            "measuring_s": truth.measuring_s,
            "best_tokens_per_s": best.tokens_per_s,
            "front": len(best.front),
            "builds_on_front": best.builds_on_front,
        },
        "default": DEFAULT,
        "goal": GOAL,
        **tables,
    }
    write_record("search_quality", facts, results, ("numpy", "optuna", "onnxruntime-gpu"), arguments.out)


def _names(text: str) -> list[SamplerName]:
    """The samplers of a list with commas; SystemExit if one is unknown."""
    names = [name for name in text.split(",") if name]
    unknown = set(names) - set(get_args(SamplerName))
    if unknown:
        raise SystemExit(f"unknown samplers: {', '.join(sorted(unknown))}")
    return [cast(SamplerName, name) for name in names]


@dataclass(frozen=True)
class Unseeded(SearchSpace):
    """The same space without knowledge of what usually wins."""

    def seeds(self) -> list[Candidate]:
        """The first seed alone: a study needs one trial to know its parameters."""
        return super().seeds()[:1]


@dataclass(frozen=True)
class Best:
    """The best there is in a truth."""

    front: list[Score]
    builds_on_front: int

    @staticmethod
    def of(truth: Truth) -> "Best":
        scored = [(key, score) for key, outcome in truth.outcomes.items() for score in getattr(outcome, "scores", ())]
        front = pareto_front(scored, lambda item: item[1])
        return Best([score for _, score in front], len({key for key, _ in front}))

    @property
    def tokens_per_s(self) -> float:
        return fastest(self.front)

    def judge(self, records: Sequence[TrialRecord]) -> tuple[float, float]:
        """Regret and share of the hypervolume of what these records found."""
        found = front_of(records)
        if not found:
            return 1.0, 0.0
        longest_s = REFERENCE * self.front[-1].round_s.value
        return 1 - fastest(found) / self.tokens_per_s, area(found, longest_s) / area(self.front, longest_s)


class Clock:
    """Notes the seconds from each evaluated build to the next."""

    def __init__(self) -> None:
        self.asking_s: list[float] = []
        self._last_s = time.perf_counter()

    def phase(self, title: str) -> None:
        """Nothing: a search has one phase."""

    def progress(self, fraction: float) -> None:
        """Nothing: progress is told by trials."""

    def note(self, text: str) -> None:
        """Nothing: there is nobody to read it."""

    def trial(self, record: TrialRecord, status: SearchStatus) -> None:
        now_s = time.perf_counter()
        self.asking_s.append(now_s - self._last_s)
        self._last_s = now_s


def judge(space: SearchSpace, truth: Truth, best: Best, sampler: SamplerName, seeds: Sequence[int]) -> dict[str, Any]:
    """What the sampler's searches found at each share of the builds, over the seeds."""
    budgets = [round(share * space.size) for share in SHARES]
    judged: dict[int, list[tuple[float, float]]] = {budget: [] for budget in budgets}
    asking_s: list[float] = []
    for seed in seeds:
        clock = Clock()
        evaluator = Recorded(truth, space.lookahead.values)
        records = play(space, evaluator, seed, budgets[-1], sampler=sampler, observer=clock).records
        asking_s += clock.asking_s
        for budget in budgets:
            judged[budget].append(best.judge(records[:budget]))
    return {
        "asking_s": {"median": median(asking_s), "max": max(asking_s), "mean": sum(asking_s) / len(asking_s)},
        "at": [
            {
                "share": share,
                "builds": budget,
                "regret": _summary([regret for regret, _ in judged[budget]], worst=max),
                "hypervolume": _summary([volume for _, volume in judged[budget]], worst=min),
            }
            for share, budget in zip(SHARES, budgets, strict=True)
        ],
    }


def _summary(samples: Sequence[float], worst: Any) -> dict[str, Any]:
    return {"median": median(samples), "worst": worst(samples), "samples": list(samples)}


if __name__ == "__main__":
    main()
