"""What a draft comes to that is asked only where looking the text up finds nothing, estimated along traces.

At a place t where something is found, that is proposed, of which a known number n of tokens is right: the round ends at
t + n for certain (see `autotune.model_free`).  Elsewhere the draft's token at t is accepted with probability r_t (see
`autotune.acceptance`).  With s_t = P(a round starts at t),

    s_{t+n+1} += s_t                                                    where something is found,
    s_{t+n+1} += s_t r_t … r_{t+n-1} (1 - r_{t+n})   for n < k,
    s_{t+k+1} += s_t r_t … r_{t+k-1}                                    elsewhere.

A round takes what its kind takes, and looking up takes a little for every token.  A draft's round that follows one
without the draft also reads what the draft missed, which is taken for one step of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autotune.acceptance import bootstrap_interval
from autotune.candidate import Build, Lookup
from autotune.lookup_results import LookupFirstOutcome
from autotune.model_free import LOOKUPS, Agreement, look_up
from autotune.objective import MEAN, Objective
from autotune.results import Acceptance, Evidence, Figure, LatencyTable, Score, TargetLatency
from autotune.score import quotient, weakest
from autotune.traces import Trace

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Drafted:
    """A draft on traces: what it costs and how often it is right."""

    build: Build
    burst: LatencyTable
    acceptance: Sequence[Vector]
    """r_t `[T]` of every trace."""


class Course(NamedTuple):
    """How the rounds of a trace go, in expectation."""

    rounds: float
    found: Vector
    """`[k + 1]` rounds that verify so many tokens which were found."""
    drafted: Vector
    """`[k + 1]` rounds that verify so many tokens of the draft; 0: neither had room to propose any."""
    missed: float
    """Rounds of the draft behind one without it."""


def estimate_lookup_first(
    draft: Drafted,
    traces: Sequence[Trace],
    vocab: int,
    target: TargetLatency,
    max_lookahead: int,
    lookahead: int,
    objective: Objective = MEAN,
    lookups: Sequence[Lookup] = LOOKUPS,
) -> LookupFirstOutcome:
    """The fastest lookup before the draft, with the fastest lookaheads of both, by prediction.

    The kind of lookup is chosen at the draft's own lookahead, then the lookup's lookahead, then the draft's.
    """
    found = {lookup: look_up(lookup, traces, vocab, max_lookahead) for lookup in lookups}

    def outcome(lookup: Lookup, found_most: int, drafted_most: int) -> LookupFirstOutcome:
        courses = [
            walk_first(places, acceptance, found_most, drafted_most)
            for places, acceptance in zip(found[lookup].agreements, draft.acceptance, strict=True)
        ]
        score = _score(courses, traces, draft.burst, target, found[lookup].lookup_s, drafted_most, objective)
        return LookupFirstOutcome(draft.build, lookup, found_most, score)

    lookaheads = range(1, max_lookahead + 1)
    best = _fastest([outcome(lookup, lookahead, lookahead) for lookup in lookups])
    best = _fastest([outcome(best.lookup, most, lookahead) for most in lookaheads])
    return _fastest([outcome(best.lookup, best.lookup_lookahead, most) for most in lookaheads])


def walk_first(found: Sequence[Agreement], acceptance: Vector, found_most: int, drafted_most: int) -> Course:
    """The rounds of one trace, found and acceptance `[T]`, as decoding ends them at the trace's end."""
    total = len(found)
    # Kept apart by what came before: [t, 0] behind a round of the draft, or at the beginning; [t, 1] behind another.
    starts = np.zeros((total + drafted_most + found_most + 2, 2))
    starts[0, 0] = 1.0
    by_found, by_draft, missed = np.zeros(found_most + 1), np.zeros(drafted_most + 1), 0.0
    chances = acceptance.tolist()
    for place, (proposed, right) in enumerate(found):
        behind_draft, behind_other = starts[place].tolist()
        reach = behind_draft + behind_other
        if reach == 0.0:
            continue
        left = total - place - 1
        if proposed:
            count = min(proposed, found_most, left)
            by_found[count] += reach
            starts[place + min(right, count) + 1, 1] += reach
            continue
        count = min(drafted_most, left)
        by_draft[count] += reach
        missed += behind_other if count else 0.0
        for kept in range(count):
            chance = chances[place + kept]
            starts[place + kept + 1, 0] += reach * (1.0 - chance)
            reach *= chance
        starts[place + count + 1, 0] += reach
    return Course(float(by_found.sum() + by_draft.sum()), by_found, by_draft, missed)


def _score(
    courses: Sequence[Course],
    traces: Sequence[Trace],
    burst: LatencyTable,
    target: TargetLatency,
    lookup_s: float,
    lookahead: int,
    objective: Objective,
) -> Score:
    """Tokens per round over seconds per round; as of lookups alone, the seconds are the mean of all text."""
    acceptance = Acceptance(
        tokens=tuple(len(trace.continuation) for trace in traces),
        rounds=tuple((course.rounds,) for course in courses),
        accepted=(),
        examined=(),
        categories=tuple(trace.category for trace in traces),
    )
    tokens = Figure(
        objective.tokens_per_round(acceptance, 0), acceptance.evidence, *bootstrap_interval(acceptance, 0, objective)
    )
    found = np.sum([course.found for course in courses], 0)
    drafted = np.sum([course.drafted for course in courses], 0)
    seconds = sum(course.missed for course in courses) * burst.seconds(1) + sum(acceptance.tokens) * lookup_s
    for counts, drafting_s in ((found, lambda count: 0.0), (drafted, burst.seconds)):
        for count, rounds in enumerate(counts.tolist()):
            seconds += rounds * (target.round_s(drafting_s(count), count) if count else target.step_s)
    evidence = weakest(Evidence.ESTIMATED, burst.evidence, target.verify.evidence)
    round_s = Figure(seconds / sum(course.rounds for course in courses), evidence)
    even = Figure(round_s.value / target.step_s, evidence)
    return Score(lookahead, tokens, round_s, quotient(tokens, round_s), quotient(tokens, even), even)


def _fastest(outcomes: Sequence[LookupFirstOutcome]) -> LookupFirstOutcome:
    return max(outcomes, key=lambda outcome: outcome.best.tokens_per_s.value)
