"""Runs beside each other: what each came to, and which differences are more than noise."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

from autotune.reports.facts import RunFacts
from autotune.reports.summarise import summarise
from autotune.reports.summary import RunSummary
from autotune.results import Figure, Measured
from autotune.score import quotient


@dataclass(frozen=True)
class RunRow:
    """One run."""

    name: str
    target: str
    device: str
    kind: str
    verdict: str
    sentence: str
    best: str
    lookahead: int
    tokens_per_s: float | None
    """Of what it advises: measured where that decoded."""
    speedup: float | None
    baseline_tokens_per_s: float | None
    front: int
    trials: int


@dataclass(frozen=True)
class Difference:
    """A figure of a run over the same figure of the first one."""

    run: str
    what: str
    ratio: float
    low: float | None
    high: float | None
    beyond_noise: bool
    """Whether the interval leaves 1 out; False also where there is none."""
    evidence: str


@dataclass(frozen=True)
class Comparison:
    """Runs, and their differences from the first."""

    runs: tuple[RunRow, ...]
    differences: tuple[Difference, ...]
    cautions: tuple[str, ...]
    """What does not compare."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def compare(runs: Mapping[str, RunFacts]) -> Comparison:
    """The comparison of at least two runs, by their names, the first being what the others are held against."""
    (first_name, first), *others = runs.items()
    differences = [each for name, facts in others for each in _differences(name, first, facts)]
    return Comparison(
        tuple(_row(name, facts) for name, facts in runs.items()),
        tuple(differences),
        tuple(caution for name, facts in others for caution in _cautions(first_name, first, name, facts)),
    )


def _row(name: str, facts: RunFacts) -> RunRow:
    summary = summarise(facts)
    best = summary.best
    return RunRow(
        name=name,
        target=facts.target,
        device=facts.device,
        kind=facts.kind.value,
        verdict=summary.verdict.value,
        sentence=summary.sentence,
        best=_best_name(summary),
        lookahead=best.lookahead,
        tokens_per_s=best.tokens_per_s.predicted if best.tokens_per_s.measured is None else best.tokens_per_s.measured,
        speedup=best.speedup.predicted if best.speedup.measured is None else best.speedup.measured,
        baseline_tokens_per_s=facts.baseline.value,
        front=len(facts.front),
        trials=len(facts.records),
    )


def _best_name(summary: RunSummary) -> str:
    best = summary.best
    return " ".join(part for part in (best.name, best.precision, best.backend) if part)


def _differences(name: str, first: RunFacts, other: RunFacts) -> list[Difference]:
    found = [_difference(name, "tokens/s of the target alone", other.baseline, first.baseline)]
    pairs = [
        ("speed-up of what ships", _shipped(first), _shipped(other)),
        ("tokens/s of what ships", _shipped(first, speed=True), _shipped(other, speed=True)),
    ]
    found += [_difference(name, what, theirs, ours) for what, ours, theirs in pairs if ours and theirs]
    found += _same_builds(name, first, other)
    return found


def _difference(name: str, what: str, above: Figure, below: Figure) -> Difference:
    ratio = quotient(above, below)
    beyond = ratio.low is not None and ratio.high is not None and not ratio.low <= 1.0 <= ratio.high
    return Difference(name, what, ratio.value, ratio.low, ratio.high, beyond, ratio.evidence.value)


def _shipped(facts: RunFacts, speed: bool = False) -> Figure | None:
    """The measured speed-up, or tokens/s, of what the run ships; None if it ships nothing that decoded."""
    if facts.chosen_first and facts.chosen_first.decoded:
        decoded = facts.chosen_first.decoded
    elif facts.chosen_lookup and facts.chosen_lookup.decoded:
        decoded = facts.chosen_lookup.decoded
    elif facts.chosen:
        return facts.chosen.tokens_per_s_measured if speed else facts.chosen.speedup_measured
    else:
        return None
    return decoded.tokens_per_s if speed else decoded.speedup


def _same_builds(name: str, first: RunFacts, other: RunFacts) -> list[Difference]:
    """Of builds that both measured: the median ratio of one draft step and of tokens per round, with quartiles."""
    ours, theirs = _outcomes(first), _outcomes(other)
    shared = [key for key in ours if key in theirs]
    found = []
    steps = [theirs[key].burst.seconds(1) / ours[key].burst.seconds(1) for key in shared]
    found += _ratios(name, f"seconds of a draft step, {len(steps)} builds of both", steps, "measured")
    tokens = []
    for key in shared:
        lookahead = min(ours[key].acceptance.max_lookahead, theirs[key].acceptance.max_lookahead, 4)
        one, two = (each[key].acceptance.tokens_per_round(lookahead) for each in (ours, theirs))
        tokens.append(two / one)
    return found + _ratios(name, f"tokens per round, {len(tokens)} builds of both", tokens, "estimated")


def _outcomes(facts: RunFacts) -> dict[str, Measured]:
    return {each.build.key(): each.outcome for each in facts.records if isinstance(each.outcome, Measured)}


def _ratios(name: str, what: str, ratios: Sequence[float], evidence: str) -> list[Difference]:
    """The median of ratios between their quartiles; nothing where there are too few to have any."""
    if len(ratios) < 4:
        return []
    low, _, high = quantiles(ratios, n=4)
    return [Difference(name, what, median(ratios), low, high, not low <= 1.0 <= high, evidence)]


def _cautions(first_name: str, first: RunFacts, name: str, other: RunFacts) -> list[str]:
    """What of the two runs differs that their figures do not tell."""
    asked = [
        ("targets", first.target, other.target),
        ("devices", first.device, other.device),
        ("kinds of run", first.kind.value, other.kind.value),
        ("precisions of the target", first.target_precision.value, other.target_precision.value),
        ("objectives", first.objective.kind.value, other.objective.kind.value),
    ]
    return [
        f"{name} and {first_name} have different {what}: {theirs} and {ours}"
        for what, ours, theirs in asked
        if ours != theirs
    ]
