"""Why the winner wins, or nothing does, and what would change that: in words, from a run's facts."""

from collections.abc import Iterator
from dataclasses import dataclass

from autotune.reports.facts import RunFacts
from autotune.reports.verdict import predicted_best, sentence
from autotune.results import Evidence, Figure, Score, TrialRecord, TrialState, Validated
from autotune.score import needed_to_match

_SLOWER_TARGET = 4.0
"""How much slower a target is asked about."""


@dataclass(frozen=True)
class Statement:
    """One thing that is said."""

    topic: str
    """verdict, round, break-even, draft, target, lookahead, rival, accurate, doubt, model-free, categories, search."""
    text: str


def explain(facts: RunFacts) -> tuple[Statement, ...]:
    """What there is to say of a run; the verdict first."""
    return tuple(_statements(facts))


@dataclass(frozen=True)
class _Round:
    """A round of the pair that is explained, in seconds and tokens."""

    name: str
    lookahead: int
    tokens: float
    burst_s: float
    verify_s: float
    overhead_s: float
    step_s: float
    """Of the target alone."""
    evidence: Evidence

    @property
    def round_s(self) -> float:
        return self.burst_s + self.verify_s + self.overhead_s

    @property
    def speedup(self) -> float:
        return self.tokens * self.step_s / self.round_s

    @property
    def break_even(self) -> float:
        return self.round_s / self.step_s

    def beside_slower_target(self, factor: float) -> float:
        """The speed-up where steps and verifications of the target take so many times as long."""
        round_s = self.burst_s + self.overhead_s + factor * self.verify_s
        return self.tokens * factor * self.step_s / round_s

    @property
    def least_target(self) -> float | None:
        """The factor of the target's seconds at which the pair is just as fast as the target alone.

        tokens · f · step = burst + overhead + f · verify; None if no factor does it.
        """
        gain_s = self.tokens * self.step_s - self.verify_s
        return (self.burst_s + self.overhead_s) / gain_s if gain_s > 0 else None


def _statements(facts: RunFacts) -> Iterator[Statement]:
    yield Statement("verdict", sentence(facts))
    explained = _explained(facts)
    if explained is not None:
        record, lookahead = explained.record, explained.round.lookahead
        yield from _of_round(explained.round)
        if record is not None:
            yield from _of_lookahead(record, lookahead)
            yield from _of_rival(facts, record, lookahead)
            yield from _of_accurate(facts, record, lookahead)
    yield from _of_doubt(facts)
    yield from _of_lookups(facts)
    yield from _of_categories(facts, explained)
    yield from _of_search(facts)


@dataclass(frozen=True)
class _Explained:
    round: _Round
    record: TrialRecord | None
    """The build as the search scored it; None if it is not among the records."""
    draft: Validated | None


def _explained(facts: RunFacts) -> _Explained | None:
    """The pair that is explained: the one that ships, else the best that decoded, else the best prediction."""
    lossless = [each for each in facts.validated if not each.mismatches]
    draft = facts.chosen or max(lossless, key=lambda each: each.speedup_measured.value, default=None)
    if draft is not None:
        record = next((each for each in facts.records if each.build == draft.build), None)
        return _Explained(_measured_round(facts, draft), record, draft)
    best = predicted_best(facts)
    if best is None:
        return None
    record, score = best
    verify_s, overhead_s = facts.latency.verify.seconds(score.lookahead + 1), facts.latency.overhead_s
    burst_s = score.round_s.value - verify_s - overhead_s
    tokens, step_s = score.tokens_per_round, facts.latency.step_s
    name, k = str(record.build.shape), score.lookahead
    return _Explained(
        _Round(name, k, tokens.value, burst_s, verify_s, overhead_s, step_s, tokens.evidence), record, None
    )


def _measured_round(facts: RunFacts, draft: Validated) -> _Round:
    return _Round(
        str(draft.build.shape),
        draft.lookahead,
        draft.tar_measured.value,
        draft.burst_s,
        draft.verify_s,
        draft.overhead_s,
        1 / facts.baseline.value,
        Evidence.MEASURED,
    )


def _of_round(of: _Round) -> Iterator[Statement]:
    yield Statement(
        "round",
        f"A round of {of.name} with k = {of.lookahead} takes {_ms(of.round_s)}: {_ms(of.burst_s)} for the draft's "
        f"burst, {_ms(of.verify_s)} for the target to verify {of.lookahead + 1} positions, {_ms(of.overhead_s)} "
        "outside both. "
        f"It gives {of.tokens:.2f} tokens ({of.evidence.value}), for each of which the target alone takes "
        f"{_ms(of.step_s)}: {of.tokens:.2f} · {_ms(of.step_s)} / {_ms(of.round_s)} = {of.speedup:.2f}×.",
    )
    change = of.break_even / of.tokens - 1
    if change < 0:
        margin = f"acceptance may fall by {-change:.0%} before the target alone is as fast"
    else:
        margin = f"it would need {change:.0%} more tokens per round than it has"
    yield Statement("break-even", f"It breaks even at {of.break_even:.2f} tokens per round: {margin}.")
    most_s = of.tokens * of.step_s - of.verify_s - of.overhead_s
    if most_s <= 0:
        text = "However fast the draft were, it would not pay: verifying takes longer than its tokens are worth."
    elif most_s >= of.burst_s:
        text = f"Its burst could take {most_s / of.burst_s:.1f} times as long, {_ms(most_s)}, before it stops paying."
    else:
        text = f"Its burst would have to be {of.burst_s / most_s:.1f} times faster, {_ms(most_s)}, to pay."
    yield Statement("draft", text)
    yield Statement("target", _of_target(of))


def _of_target(of: _Round) -> str:
    slower = of.beside_slower_target(_SLOWER_TARGET)
    text = f"Beside a target {_SLOWER_TARGET:.0f} times slower, equally accepting, it would come to {slower:.2f}×"
    least = of.least_target
    if least is None:
        return f"{text}; it pays beside none."
    if least < 1:
        return f"{text}; it pays until the target takes {least:.2f} of the time it takes now."
    return f"{text}; it pays from a target on that takes {least:.1f} times as long as this one."


def _of_lookahead(record: TrialRecord, lookahead: int) -> Iterator[Statement]:
    by_lookahead = {score.lookahead: score.speedup.value for score in record.scores}
    near = [k for k in (lookahead - 1, lookahead, lookahead + 1) if k in by_lookahead]
    if len(near) > 1 and lookahead in near:
        told = ", ".join(f"k = {k} {by_lookahead[k]:.2f}×" for k in near)
        yield Statement("lookahead", f"Around its k the search predicted: {told}.")


def _of_rival(facts: RunFacts, record: TrialRecord, lookahead: int) -> Iterator[Statement]:
    own = next((score for score in record.scores if score.lookahead == lookahead), None)
    others = [(each, best) for each in facts.records if (best := each.best()) and _differ(each, record)]
    rival = max(others, key=lambda other: other[1].tokens_per_s.value, default=None)
    if own is None or rival is None:
        return
    other, score = rival
    needed, has = needed_to_match(score, own).value, score.tokens_per_round.value
    if needed > has:
        text = f"it would match with {needed:.2f} tokens per round, {needed / has - 1:.1%} more than its {has:.2f}"
    else:
        text = f"by prediction it was ahead: {needed:.2f} of its {has:.2f} tokens per round would do"
    yield Statement(
        "rival",
        f"The best draft of another shape, {other.build.shape} with k = {score.lookahead}, was predicted to reach "
        f"{score.speedup.value:.2f}× beside {own.speedup.value:.2f}×; {text}.",
    )


def _of_accurate(facts: RunFacts, record: TrialRecord, lookahead: int) -> Iterator[Statement]:
    """The draft that agrees most at the same lookahead, and why it does not win."""
    own = _at(record, lookahead)
    rated = [(each, score) for each in facts.records if (score := _at(each, lookahead)) is not None]
    if own is None or not rated:
        return
    best, score = max(rated, key=lambda each: each[1].tokens_per_round.value)
    if not _differ(best, record):
        return
    richer = score.tokens_per_round.value / own.tokens_per_round.value - 1
    longer = score.round_s.value / own.round_s.value - 1
    yield Statement(
        "accurate",
        f"The draft that agrees most, {best.build.shape}, gives {richer:.1%} more tokens per round at the same k, but "
        f"its round takes {longer:.1%} longer.",
    )


def _of_doubt(facts: RunFacts) -> Iterator[Statement]:
    decoded = sorted(
        (each for each in facts.validated if not each.mismatches), key=lambda each: -each.speedup_measured.value
    )
    if len(decoded) < 2:
        return
    first, second = decoded[:2]
    ahead, behind = first.speedup_measured, second.speedup_measured
    level = ahead.low is not None and behind.high is not None and behind.high >= ahead.low
    close = "the two are level within the doubt" if level else "the difference is beyond the doubt"
    yield Statement(
        "doubt",
        f"Second of those that decoded is {second.build} with k = {second.lookahead}: {_interval(behind)} beside "
        f"{_interval(ahead)}; {close}.",
    )


def _of_lookups(facts: RunFacts) -> Iterator[Statement]:
    decoded = [each for each in facts.lookups if each.decoded]
    for each in decoded[:1]:
        assert each.decoded is not None
        yield Statement(
            "model-free",
            f"Without a model, {each.lookup}, k = {each.lookahead}: {_interval(each.decoded.speedup)} (measured).",
        )
    if facts.lookups and not decoded:
        best = facts.lookups[0]
        yield Statement(
            "model-free", f"Without a model, {best.lookup} is predicted to reach {best.best.speedup.value:.2f}×."
        )


def _of_categories(facts: RunFacts, explained: _Explained | None) -> Iterator[Statement]:
    if explained is None or explained.record is None:
        return
    outcomes = facts.by_category.get(explained.record.build.key(), ())
    speeds = {each.category: speedup for each in outcomes if (speedup := each.speedup_measured)}
    if len(speeds) > 1:
        worst, best = (choose(speeds, key=lambda name: speeds[name].value) for choose in (min, max))
        yield Statement(
            "categories",
            f"By category it reaches from {speeds[worst].value:.2f}× ({worst}) to {speeds[best].value:.2f}× ({best}).",
        )


def _of_search(facts: RunFacts) -> Iterator[Statement]:
    if not facts.records:
        return
    counts = {state: sum(record.state is state for record in facts.records) for state in TrialState}
    ruled_out = sum(record.ruled_out for record in facts.records)
    failed = counts[TrialState.REJECTED] - ruled_out
    parts = [f"{counts[TrialState.MEASURED]} compiled and measured"]
    parts += [f"{counts[TrialState.SCREENED]} screened out"] if counts[TrialState.SCREENED] else []
    parts += [f"{ruled_out} over a limit"] if ruled_out else []
    parts += [f"{failed} failed"] if failed else []
    yield Statement("search", f"Of {len(facts.records)} builds tried: {', '.join(parts)}.")


def _differ(one: TrialRecord, other: TrialRecord) -> bool:
    return one.build.shape != other.build.shape


def _at(record: TrialRecord, lookahead: int) -> Score | None:
    return next((score for score in record.scores if score.lookahead == lookahead), None)


def _interval(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return f"{figure.value:.2f}×"
    return f"{figure.value:.2f}× ({figure.low:.2f} … {figure.high:.2f})"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
