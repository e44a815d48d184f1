"""What drafting without a model comes to: exactly what would have been accepted of it along the target's own traces.

What such a drafter proposes is a function of the text before it, so of the trace alone.  A proposed token x is accepted
with probability min(1, p(x) / q(x)) = p(x), as q is certain of it, and what replaces a rejected one is never x: given
that the output is y, x was accepted for certain if x = y, and never otherwise.  So r_t = [x_t = y_t], greedy or
sampled, and every trace has one course of rounds for every k, which is walked here: at each of its places the text is
looked up once, and how far the proposal agrees with what follows serves all k.  No model runs.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autotune.acceptance import bootstrap_interval
from autotune.candidate import Lookup, LookupKind
from autotune.lookup_results import LookupOutcome
from autotune.objective import MEAN, Objective
from autotune.results import Acceptance, Evidence, Figure, Score, TargetLatency
from autotune.runtime.lookup import open_lookup
from autotune.score import quotient, weakest
from autotune.traces import Trace

LOOKUPS = (
    Lookup(LookupKind.PROMPT_LOOKUP, 1, 3),
    Lookup(LookupKind.PROMPT_LOOKUP, 2, 4),
    Lookup(LookupKind.SUFFIX_AUTOMATON, 1),
    Lookup(LookupKind.SUFFIX_AUTOMATON, 2),
    Lookup(LookupKind.SUFFIX_AUTOMATON, 4),
)
"""Those that every search tries."""


@dataclass(frozen=True)
class Course:
    """How rounds went along traces; `[traces, k, n]`: rounds with lookahead k in which n tokens were proposed."""

    acceptance: Acceptance
    proposed: NDArray[np.int64]
    lookup_s: float
    """Seconds that looking up took, per place."""


def score_lookups(
    traces: Sequence[Trace],
    vocab: int,
    target: TargetLatency,
    max_lookahead: int,
    objective: Objective = MEAN,
    lookups: Sequence[Lookup] = LOOKUPS,
) -> list[LookupOutcome]:
    """The scores of drafters without a model, the fastest first; empty if no lookahead is above 0."""
    if max_lookahead < 1:
        return []
    scored = []
    for lookup in lookups:
        course = walk(lookup, traces, vocab, max_lookahead)
        scores = tuple(_score(course, target, k, objective) for k in range(1, max_lookahead + 1))
        best = max(scores, key=lambda score: score.tokens_per_s.value)
        scored.append(LookupOutcome(lookup, scores, best.lookahead))
    return sorted(scored, key=lambda each: -each.best.tokens_per_s.value)


def walk(lookup: Lookup, traces: Sequence[Trace], vocab: int, max_lookahead: int) -> Course:
    """The rounds of every trace, for lookaheads 0 … `max_lookahead`."""
    rounds = np.zeros((len(traces), max_lookahead + 1), np.int64)
    proposed = np.zeros((len(traces), max_lookahead + 1, max_lookahead + 1), np.int64)
    accepted, examined = np.zeros(max_lookahead), np.zeros(max_lookahead)
    found = look_up(lookup, traces, vocab, max_lookahead)
    for index, agreement in enumerate(found.agreements):
        for lookahead in range(max_lookahead + 1):
            for kept, count in _rounds(agreement, lookahead):
                rounds[index, lookahead] += 1
                proposed[index, lookahead, count] += 1
                if lookahead == max_lookahead:
                    accepted[:kept] += 1
                    examined[: min(kept + 1, count)] += 1
    acceptance = Acceptance(
        tokens=tuple(len(trace.continuation) for trace in traces),
        rounds=tuple(tuple(map(float, row)) for row in rounds),
        accepted=tuple(map(float, accepted)),
        examined=tuple(map(float, examined)),
        categories=tuple(trace.category for trace in traces),
    )
    return Course(acceptance, proposed, found.lookup_s)


@dataclass(frozen=True)
class LookedUp:
    """What a lookup proposes along traces."""

    agreements: Sequence[Sequence["Agreement"]]
    """At every place of every trace."""
    lookup_s: float
    """Seconds that looking up took, per place: of the trace in the middle, as any may be interrupted."""


def look_up(lookup: Lookup, traces: Sequence[Trace], vocab: int, most: int) -> LookedUp:
    """What is proposed at every place, for proposals of `most` tokens, and how long that took."""
    found, seconds = [], []
    for trace in traces:
        began = time.perf_counter()
        found.append(agreements(lookup, trace, vocab, most))
        seconds.append((time.perf_counter() - began) / len(trace.continuation))
    return LookedUp(found, median(seconds))


class Agreement(NamedTuple):
    """What is proposed at a place of a trace."""

    proposed: int
    """Tokens: 0 where nothing is found."""
    right: int
    """Those of the first ones that are the trace's."""


def agreements(lookup: Lookup, trace: Trace, vocab: int, most: int) -> list[Agreement]:
    """At every place of the continuation, for proposals of `most` tokens."""
    drafter = open_lookup(lookup, vocab)
    text, begin = trace.tokens.tolist(), len(trace.prompt)
    drafter.start(text[:begin])
    found = []
    for place in range(begin, len(text)):
        proposal = drafter.continuation(text[:place], most)
        follows = text[place : place + len(proposal)]
        right = next((n for n, pair in enumerate(zip(proposal, follows, strict=False)) if pair[0] != pair[1]), None)
        found.append(Agreement(len(proposal), len(follows) if right is None else right))
    return found


def _rounds(found: Sequence[Agreement], lookahead: int) -> list[tuple[int, int]]:
    """Tokens kept and tokens proposed in every round; as in decoding, no more than the text still takes."""
    rounds, place = [], 0
    while place < len(found):
        count, right = found[place]
        count = min(count, lookahead, len(found) - place - 1)
        kept = min(count, right)
        rounds.append((kept, count))
        place += kept + 1
    return rounds


def _score(course: Course, target: TargetLatency, lookahead: int, objective: Objective) -> Score:
    """Tokens per round over seconds per round: a round verifies what was proposed, which may be nothing.

    The seconds of a round are the mean of all text, whatever the objective: how often nothing is found differs little
    among categories beside how much of it is right.
    """
    acceptance = course.acceptance
    tokens = Figure(
        objective.tokens_per_round(acceptance, lookahead),
        acceptance.evidence,
        *bootstrap_interval(acceptance, lookahead, objective),
    )
    share = course.proposed[:, lookahead].sum(0) / course.proposed[:, lookahead].sum()
    models_s = sum(
        part * (target.round_s(0.0, count) if count else target.step_s) for count, part in enumerate(share.tolist())
    )
    evidence = weakest(Evidence.ESTIMATED, target.verify.evidence)
    lookups_s = course.lookup_s * tokens.value
    round_s = Figure(models_s + lookups_s, evidence)
    even = Figure(round_s.value / target.step_s, evidence)
    return Score(lookahead, tokens, round_s, quotient(tokens, round_s), quotient(tokens, even), even)
