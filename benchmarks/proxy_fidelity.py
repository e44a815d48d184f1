"""Whether the proxies rank shapes as the finished drafts rank that one would really ship.

    python -m benchmarks.proxy_fidelity [--out FILE] [--work DIR] [--shapes 14] [--tokens 250000]

The truth: each shape is really trained for the same number of tokens, once from the elastic source's slice (`shipped`:
what a run ships) and once from the pruned source (`independent`: no estimator's training had a part in it, with twice
the tokens), and its acceptance is taken on traces of the validation's prompts, which no training and no estimate sees.
The proxies are scored on the estimation traces, as in a search.  A third of the shapes have values between those of
the space's axes, which no shared training draws on purpose.

Latencies are measured once per shape and serve truth and proxies alike, so that only acceptance differs.  Per
estimator and seed: Spearman correlation of TAR(4) and of the best tokens/s with the truth, top-1 regret (tokens/s lost
by taking the estimator's favourite shape and lookahead), and CPU seconds a candidate.  `--work` keeps what was trained,
so that an interrupted benchmark goes on.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from autotune.acceptance_source import ScoredOnTraces
from autotune.cache import content_key, source_hashes
from autotune.candidate import Build, DraftShape
from autotune.config import make_config
from autotune.paper.statistics import spearman
from autotune.progress import LoggingObserver
from autotune.proxy.base import Estimator
from autotune.proxy.finish import finish
from autotune.proxy.parts import budget_s
from autotune.request import resolve
from autotune.results import Acceptance, LatencyTable, Rejected, Score, TargetLatency
from autotune.runtime.session import open_session
from autotune.score import score_lookahead
from autotune.search_space.space import SearchSpace
from autotune.store import RunFolder
from autotune.text import train_estimator
from autotune.traces import Traces, record
from autotune.weights import ModelWeights
from autotune.workbench import Workbench, prepare
from autotune.workload import PromptTokens
from benchmarks.record import machine, write_record

LOOKAHEAD = 4
"""Of the TAR that is correlated."""
UNSEEN_SHARE = 1 / 3
_ACCEPTANCE = TypeAdapter(Acceptance)


@dataclass(frozen=True)
class Course:
    """One way to the truth: whose weights a shape starts from, and how long it is trained."""

    name: str
    start: Estimator
    tokens: int


@dataclass(frozen=True)
class Field:
    """The shapes, and everything about them that does not depend on an estimator."""

    bench: Workbench
    builds: tuple[Build, ...]
    bursts: tuple[LatencyTable, ...]
    held_out: Traces
    """The target's continuations of the validation's prompts."""
    work: Path

    @property
    def target(self) -> TargetLatency:
        return self.bench.latency

    def scores(self, acceptances: Sequence[Acceptance]) -> list[list[Score]]:
        """Every shape's scores at every lookahead."""
        lookaheads = self.bench.request.space.lookahead.values
        pairs = zip(acceptances, self.bursts, strict=True)
        return [[score_lookahead(a, burst, self.target, k) for k in lookaheads] for a, burst in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument("--work", type=Path, help="folder to keep what was trained in (default: a temporary one)")
    parser.add_argument("--shapes", type=int, default=14)
    parser.add_argument("--tokens", type=int, default=250_000, help="training tokens of every finished draft")
    parser.add_argument("--courses", default="shipped,independent")
    parser.add_argument("--proxies", default="pruned,recovered,elastic,learned-mask")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of the elastic source")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--elastic-budget", default="120s")
    parser.add_argument("--backend", default="tvm")
    parser.add_argument("--precision", default="int8")
    arguments = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory() as scratch:
        asked = {name: getattr(arguments, name) for name in ("temperature", "elastic_budget", "backend", "precision")}
        request = resolve(make_config({**asked, "threads": 1, "out": Path(scratch, "run")}))
        with RunFolder.open(request.config.out, request.identity(), resume=False) as folder:
            bench = prepare(request, folder, LoggingObserver())
            field = survey(bench, arguments.shapes, arguments.work or Path(scratch, "work"))
            courses = [course(field, name, arguments.tokens) for name in arguments.courses.split(",")]
            results = judge(field, courses, arguments.proxies.split(","), arguments.seeds)
    packages = ("numpy", "torch", "onnxruntime-gpu", "apache-tvm")
    write_record("proxy_fidelity", facts, results, packages, arguments.out)


def survey(bench: Workbench, count: int, work: Path) -> Field:
    """The field of `count` shapes, each compiled and measured."""
    config, request = bench.request.config, bench.request
    program = config.backend[0], request.precision[0]
    unseen = round(count * UNSEEN_SHARE)
    seen_shapes = spread_out(request.space, count - unseen, Random(1))
    unseen_shapes = [between(request.space, shape) for shape in spread_out(request.space, unseen, Random(2))]
    builds = tuple(Build(shape, *program) for shape in [*seen_shapes, *unseen_shapes])
    prompts = [PromptTokens(ids, "held out", "validation") for ids in bench.own_text.traces.validate]
    session = open_session(bench.program, bench.threads)
    held_out = record(session, request.text_target, prompts, config.sampling, config.max_new_tokens, config.seed)
    bursts = tuple(measured(bench, build, work / "programs") for build in builds)
    return Field(bench, builds, bursts, held_out, work)


def course(field: Field, name: str, tokens: int) -> Course:
    """The course of that name; the independent one starts from less, and is given twice the tokens."""
    if name == "shipped":
        return Course(name, trained(field, "elastic", 0), tokens)
    return Course(name, trained(field, "pruned", 0), 2 * tokens)


def judge(field: Field, courses: Sequence[Course], proxies: Sequence[str], seeds: int) -> dict[str, Any]:
    """The benchmark's results."""
    truths = {course.name: [finished(field, course, build) for build in field.builds] for course in courses}
    estimators: dict[str, Any] = {}
    for name in proxies:
        for seed in range(seeds if name == "elastic" else 1):
            estimates, cpu_s = estimated(field, trained(field, name, seed))
            estimators[f"{name}, seed {seed}" if name == "elastic" else name] = {
                "cpu_s_per_candidate": median(cpu_s),
                "tar": tars(estimates),
                **{truth: agreement(field, estimates, acceptances) for truth, acceptances in truths.items()},
            }
    return {
        "tokens": {course.name: course.tokens for course in courses},
        "temperature": field.bench.request.config.temperature,
        "shapes": [
            {"shape": str(build.shape), "seen": build.shape in field.bench.request.space, "burst_s": burst.seconds(4)}
            for build, burst in zip(field.builds, field.bursts, strict=True)
        ],
        "program": f"{field.builds[0].backend} {field.builds[0].precision}",
        "truth": {name: {"tar": tars(acceptances)} for name, acceptances in truths.items()},
        "truths_agree": agreement(field, truths["independent"], truths["shipped"]) if len(truths) > 1 else None,
        "estimators": estimators,
    }


def agreement(field: Field, estimates: Sequence[Acceptance], truth: Sequence[Acceptance]) -> dict[str, float]:
    """How well estimates rank the shapes, and what trusting them costs."""
    estimated_scores, true_scores = field.scores(estimates), field.scores(truth)
    guess, best = fastest_of_each(estimated_scores), fastest_of_each(true_scores)
    favourite = int(np.argmax([score.tokens_per_s.value for score in guess]))
    taken = next(s for s in true_scores[favourite] if s.lookahead == guess[favourite].lookahead)
    seen = [place for place, build in enumerate(field.builds) if build.shape in field.bench.request.space]
    unseen = [place for place in range(len(field.builds)) if place not in seen]
    tar, true_tar = tars(estimates), tars(truth)

    def among(places: Sequence[int]) -> float:
        return spearman([tar[place] for place in places], [true_tar[place] for place in places])

    return {
        "spearman_tar": spearman(tar, true_tar),
        "spearman_tar_seen": among(seen),
        "spearman_tar_unseen": among(unseen),
        "spearman_tokens_per_s": spearman(speeds(guess), speeds(best)),
        "top1_regret": 1 - taken.tokens_per_s.value / max(speeds(best)),
        "median_tar_below_truth": median(1 - a / b for a, b in zip(tar, true_tar, strict=True)),
    }


def fastest_of_each(scores: Sequence[Sequence[Score]]) -> list[Score]:
    return [max(each, key=lambda score: score.tokens_per_s.value) for each in scores]


def speeds(scores: Sequence[Score]) -> list[float]:
    return [score.tokens_per_s.value for score in scores]


def tars(acceptances: Sequence[Acceptance]) -> list[float]:
    return [acceptance.tokens_per_round(LOOKAHEAD) for acceptance in acceptances]


def trained(field: Field, name: str, seed: int) -> Estimator:
    """The estimator of that name, trained with that seed on the run's training traces."""
    request = field.bench.request
    config = request.config.model_copy(update={"proxy": name, "seed": seed})
    return train_estimator(replace(request, config=config), field.bench.own_text.traces.train, LoggingObserver())


def estimated(field: Field, estimator: Estimator) -> tuple[list[Acceptance], list[float]]:
    """The acceptance of every build as a search would estimate it, and the CPU seconds each took."""
    acceptances, seconds = [], []
    for build in field.builds:
        began_s = time.process_time()
        acceptances.append(scored(field, build, estimator.weights(build.shape), field.bench.own_text.traces.estimate))
        seconds.append(time.process_time() - began_s)
    return acceptances, seconds


def finished(field: Field, course: Course, build: Build) -> Acceptance:
    """The acceptance of a build whose draft was really trained; kept in the work folder."""
    config = field.bench.request.config
    code = content_key(source_hashes("autotune.proxy"))[:8]
    kept = field.work / f"{course.name}-{code}" / f"{build.key()}-{course.tokens}-{config.temperature}.json"
    if not kept.exists():
        draft = course.start.weights(build.shape)
        budget = budget_s(course.tokens + 1, draft.shape.decode_parameters)
        weights = finish(draft, field.bench.own_text.traces.train, budget, seed=config.seed).weights
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(_ACCEPTANCE.dump_json(scored(field, build, weights, field.held_out)))
    return _ACCEPTANCE.validate_json(kept.read_bytes())


def scored(field: Field, build: Build, weights: ModelWeights, traces: Traces) -> Acceptance:
    source = ScoredOnTraces(traces, field.bench.request.space.max_lookahead, threads=1)
    known = source.acceptance(build, weights)
    assert not isinstance(known, Rejected), known
    return known.value


def measured(bench: Workbench, build: Build, folder: Path) -> LatencyTable:
    """The build's burst latencies; they do not depend on the weights' values."""
    evaluator = bench.evaluator
    built = evaluator.compile(build, bench.own_text.estimator.weights(build.shape), folder / build.key())
    assert not isinstance(built, Rejected), built
    burst = evaluator.measure(built)
    assert not isinstance(burst, Rejected), burst
    return burst


def spread_out(space: SearchSpace, count: int, random: Random) -> list[DraftShape]:
    """Shapes of the space far from one another: each is, of two hundred, the farthest from those before."""
    drawn = list(dict.fromkeys(space.draw(random).shape for _ in range(200)))
    chosen = [drawn[0]]
    while len(chosen) < count:
        chosen.append(max(drawn, key=lambda shape: min(distance(space, shape, other) for other in chosen)))
    return chosen


def distance(space: SearchSpace, one: DraftShape, other: DraftShape) -> float:
    """Sum over the axes of the share of the axis that lies between two shapes."""
    axes: Mapping[str, Sequence[int]] = {
        "layers": space.layers.values,
        "heads": [heads for heads, _ in space.attention],
        "ffn": space.ffn.values,
        "hidden": space.hidden.values,
    }
    return sum(
        abs(values.index(getattr(one, name)) - values.index(getattr(other, name))) / max(len(values) - 1, 1)
        for name, values in axes.items()
    )


def between(space: SearchSpace, shape: DraftShape) -> DraftShape:
    """The shape with FFN and hidden size half-way to a neighbouring value of their axes, in whole eights."""

    def moved(values: Sequence[int], value: int) -> int:
        place = values.index(value)
        neighbour = values[place - 1] if place else values[min(1, len(values) - 1)]
        return (value + neighbour) // 2 // 8 * 8

    return replace(shape, ffn=moved(space.ffn.values, shape.ffn), hidden=moved(space.hidden.values, shape.hidden))


if __name__ == "__main__":
    main()
