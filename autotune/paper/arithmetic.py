"""Experiments (c), (d) and (e): what follows from shapes and latencies by arithmetic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from autotune.paper.published import (
    CACHE_BYTES,
    CACHE_CONTEXT_TOKENS,
    DEEP,
    DERIVED,
    DRAFTS,
    FITTED_LOOKAHEAD,
    FITTED_TARGET_S,
    OPT_DRAFTS,
    SECOND_HAND,
    TAR_GAIN_OF_1_3B_OVER_125M,
    WIDE,
    WIDE_GAIN,
)
from autotune.paper.timing import Steps, step_s
from autotune.reports.experiments import Cell, Chart, Experiment, Series, Table
from autotune.results import Evidence, Rejected, TargetLatency
from autotune.score import weakest
from autotune.shape import DraftShape

MOST_LOOKAHEAD = 16
_HALF_BYTES = 2
_PUBLISHED_GAIN = TAR_GAIN_OF_1_3B_OVER_125M


@dataclass(frozen=True)
class Sides:
    """Latencies of both sides of a round, in seconds."""

    draft_s: Mapping[str, float]
    """One step of each draft."""
    target_s: Sequence[float]
    """Verification of 1, 2, … positions."""
    evidence: Evidence
    """Of the weaker side."""
    target_source: str | None = None
    """Whose figures the target's are and how they came about."""

    @property
    def longest(self) -> int:
        """The largest lookahead whose verification is known."""
        return len(self.target_s) - 1

    def round_s(self, draft: str, lookahead: int) -> float:
        """k draft steps and one verification of k + 1 positions."""
        return lookahead * self.draft_s[draft] + self.target_s[lookahead]


def published_sides() -> Sides:
    """The paper's draft steps, and the target's latency that fits them, the same for every k."""
    known = {name: draft.step_s for name, draft in {**DRAFTS, **OPT_DRAFTS}.items() if draft.step_s}
    return Sides(known, [FITTED_TARGET_S] * (MOST_LOOKAHEAD + 1), Evidence.ESTIMATED)


def sides_here(steps: Steps, target: TargetLatency) -> Sides:
    """What was measured on this device."""
    drafts = {name: seconds for name in steps if (seconds := step_s(steps, name))}
    verify = [target.verify.seconds(n) for n in range(1, target.verify.largest + 1)]
    return Sides(drafts, verify, target.verify.evidence, target.source)


def acceptance_rate(tokens_per_round: float, lookahead: int) -> float:
    """The constant chance α of a drafted token with which (1 - α^(k+1)) / (1 - α) tokens come out of a round.

    ValueError unless 1 ≤ tokens per round < k + 1.
    """
    if not 1 <= tokens_per_round < lookahead + 1:
        raise ValueError(f"{tokens_per_round} tokens a round cannot come from a lookahead of {lookahead}")
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if expected_tokens(middle, lookahead) < tokens_per_round:
            low = middle
        else:
            high = middle
    return low


def expected_tokens(rate: float, lookahead: int) -> float:
    """Tokens per round 1 + α + … + α^k at a constant chance α."""
    return sum(rate**place for place in range(lookahead + 1))


def cache_sizes(shapes: Mapping[str, DraftShape]) -> Experiment:
    """(c): bytes of the key/value cache."""
    rows: list[tuple[Cell, ...]] = []
    sizes = {}
    for name, shape in shapes.items():
        sizes[name] = shape.kv_bytes_per_token * _HALF_BYTES // 4 * CACHE_CONTEXT_TOKENS
        published = CACHE_BYTES.get(name)
        rows.append((name, published / 2**20 if published else None, sizes[name] / 2**20))
    change = sizes[WIDE] / sizes[DEEP] - 1
    return Experiment(
        key="c",
        title=f"Key/value cache at {CACHE_CONTEXT_TOKENS} positions, fp16",
        claim=f"{WIDE} needs 120 MB where {DEEP} needs 192 MB: 37.5 % less.",
        claim_source=SECOND_HAND,
        finding=f"2 · layers · kv heads · head_dim · 2 bytes a position gives {change:+.1%}"
        + (", the paper's figures exactly." if all(sizes[n] == size for n, size in CACHE_BYTES.items()) else "."),
        evidence=(Evidence.ESTIMATED,),
        tables=(
            Table(("draft", "paper, MiB", "computed, MiB"), tuple(rows), {"paper, MiB": ".0f", "computed, MiB": ".1f"}),
        ),
    )


def throughput_model(here: Sides | Rejected) -> Experiment:
    """(d): tokens/s = TAR(k) / (k · t_draft + t_target), over k, with the paper's TARs."""
    settings = [
        (place, sides) for place, sides in _both_sides(here) if all(name in sides.draft_s for name in (DEEP, WIDE))
    ]
    tables, charts, words = [], [], []
    for place, sides in settings:
        curves = {name: _curve(name, sides) for name in (DEEP, WIDE)}
        tables.append(_curve_table(f"With {place}", curves, sides))
        lookaheads = tuple(float(k) for k in range(1, len(curves[DEEP]) + 1))
        series = tuple(Series(name, lookaheads, tuple(curve)) for name, curve in curves.items())
        charts.append(Chart(f"With {place}", "lookahead k", "tokens/s", series))
        words.append(_model_words(place, curves, sides))
    if isinstance(here, Rejected):
        words.append(_why_not(here))
    elif len(settings) == 1:
        words.append(f"{DEEP} and {WIDE} could not both be measured here, so only the paper's latencies are used.")
    return Experiment(
        key="d",
        title="The throughput model",
        claim=f"With LLaMA-65B as target, {DEEP} gives 23.10 tokens/s at TAR 3.81 and {WIDE} 32.59 (+41 %) at TAR "
        "3.70.",
        claim_source=f"{SECOND_HAND}; k = {FITTED_LOOKAHEAD} and {FITTED_TARGET_S * 1e3:.0f} ms for the target are "
        f"{DERIVED} from these two rows",
        finding=" ".join(words),
        evidence=_evidence([sides for _, sides in settings]),
        tables=tuple(tables),
        charts=tuple(charts),
        notes=(
            f"TAR(k) for other k assumes that every drafted token is accepted with the same chance, the one that gives "
            f"the published TAR at k = {FITTED_LOOKAHEAD}: {_rate(DEEP):.3f} and {_rate(WIDE):.3f}.",
            *_target_notes(here),
        ),
    )


def break_even(here: Sides | Rejected) -> Experiment:
    """(e): the tokens per round that a deeper draft must gain to be worth its longer burst."""
    tables, words, compared = [], [], []
    for place, sides in _both_sides(here):
        lookahead = min(FITTED_LOOKAHEAD, sides.longest)
        rows = _break_even_rows(sides, lookahead)
        if not rows:
            words.append(f"With {place} there are no two drafts to compare.")
            continue
        compared.append(sides)
        columns = ("shallower draft", "deeper draft", "round ratio", "its TAR", "TAR needed", "gain needed")
        formats = {"round ratio": ".2f", "its TAR": ".2f", "TAR needed": ".2f", "gain needed": "+.2f"}
        tables.append(Table(columns, tuple(rows), formats, f"With {place}, k = {lookahead}"))
        ratio = _ratio_of_opt(sides, lookahead)
        if ratio:
            words.append(f"With {place}, OPT-6.7B must bring {ratio:.2f} times the tokens per round of OPT-125M.")
    if isinstance(here, Rejected):
        words.append(_why_not(here))
    deep_s, small_s = DRAFTS[DEEP].step_s, OPT_DRAFTS["OPT-125M"].step_s
    if deep_s and small_s:
        ratio = (FITTED_TARGET_S + FITTED_LOOKAHEAD * deep_s) / (FITTED_TARGET_S + FITTED_LOOKAHEAD * small_s)
        words.append(
            f"A draft with {DEEP}'s step needs {ratio:.2f}× OPT-125M's TAR in the fitted model; the published gain "
            f"of {_PUBLISHED_GAIN:.0f} fits a small draft at TAR {_PUBLISHED_GAIN / (ratio - 1):.1f}."
        )
    return Experiment(
        key="e",
        title="Break-even: what a deeper draft must gain",
        claim=f"A 1.3 B draft beats a 125 M one only if it gains {_PUBLISHED_GAIN:.0f} or more in TAR.",
        claim_source=SECOND_HAND,
        finding=" ".join(words),
        evidence=_evidence(compared),
        tables=tuple(tables),
        notes=(
            "B beats A exactly if TAR_B / TAR_A is more than the ratio of their rounds' seconds.",
            *_target_notes(here),
        ),
    )


def _both_sides(here: Sides | Rejected) -> list[tuple[str, Sides]]:
    """The latencies to compute with, each with whose they are."""
    published = ("the paper's latencies", published_sides())
    return [published] if isinstance(here, Rejected) else [published, ("this device's latencies", here)]


def _evidence(computed_with: Sequence[Sides]) -> tuple[Evidence, ...]:
    """Of what is computed with each: no more than estimated, whatever the latencies are."""
    return tuple(dict.fromkeys(weakest(Evidence.ESTIMATED, sides.evidence) for sides in computed_with))


def _target_notes(here: Sides | Rejected) -> tuple[str, ...]:
    source = None if isinstance(here, Rejected) else here.target_source
    return (f"Beside the drafts measured on this device, LLaMA-65B's latency is {source}.",) if source else ()


def _why_not(here: Rejected) -> str:
    return f"LLaMA-65B could not be measured here ({here}), so only the paper's latencies are used."


def _rate(name: str) -> float:
    tokens = DRAFTS[name].tokens_per_round
    assert tokens is not None, f"the paper gives no TAR for {name}"
    return acceptance_rate(tokens, FITTED_LOOKAHEAD)


def _curve(name: str, sides: Sides) -> list[float]:
    """Tokens/s for k = 1, 2, …"""
    rate = _rate(name)
    return [expected_tokens(rate, k) / sides.round_s(name, k) for k in range(1, min(sides.longest, MOST_LOOKAHEAD) + 1)]


def _curve_table(title: str, curves: Mapping[str, Sequence[float]], sides: Sides) -> Table:
    rows = tuple(
        (
            k,
            *(value for name in curves for value in (expected_tokens(_rate(name), k), curves[name][k - 1])),
            curves[WIDE][k - 1] / curves[DEEP][k - 1] - 1,
        )
        for k in range(1, len(curves[DEEP]) + 1)
    )
    names = [column for name in curves for column in (f"{name}: TAR", f"{name}: tokens/s")]
    formats = dict.fromkeys(names, ".2f") | {"wide over deep": "+.1%"}
    return Table(("k", *names, "wide over deep"), rows, formats, title)


def _model_words(place: str, curves: Mapping[str, Sequence[float]], sides: Sides) -> str:
    best = {name: max(range(len(curve)), key=curve.__getitem__) + 1 for name, curve in curves.items()}
    gain = max(curves[WIDE]) / max(curves[DEEP]) - 1
    alone = 1 / sides.target_s[0]
    words = (
        f"With {place}, each draft at its own best k of 1 … {len(curves[DEEP])} ({best[DEEP]} and {best[WIDE]}), "
        f"{WIDE} gives {_percent(gain)} over {DEEP}, {max(curves[WIDE]):.2f} tokens/s where the target alone gives "
        f"{alone:.2f}."
    )
    if len(curves[DEEP]) >= FITTED_LOOKAHEAD:
        fixed = curves[WIDE][FITTED_LOOKAHEAD - 1] / curves[DEEP][FITTED_LOOKAHEAD - 1] - 1
        words += f" At k = {FITTED_LOOKAHEAD} it gives {_percent(fixed)} (paper: {WIDE_GAIN:+.0%})."
    return words


def _percent(share: float) -> str:
    """A change in whole per cent, with its sign; never -0%."""
    return f"{round(share, 2) + 0.0:+.0%}"


def _break_even_rows(sides: Sides, lookahead: int) -> list[tuple[Cell, ...]]:
    published = {**DRAFTS, **OPT_DRAFTS}
    drafts = sorted(sides.draft_s, key=lambda name: published[name].shape.layers)
    rows: list[tuple[Cell, ...]] = []
    for shallow, deep in combinations(drafts, 2):
        if (shallow in OPT_DRAFTS) != (deep in OPT_DRAFTS):
            continue
        ratio = sides.round_s(deep, lookahead) / sides.round_s(shallow, lookahead)
        tokens = published[shallow].tokens_per_round
        needed = None if tokens is None else tokens * ratio
        gain = None if tokens is None else tokens * (ratio - 1)
        rows.append((shallow, deep, ratio, tokens, needed, gain))
    return rows


def _ratio_of_opt(sides: Sides, lookahead: int) -> float | None:
    names = ("OPT-125M", "OPT-6.7B")
    if not all(name in sides.draft_s for name in names):
        return None
    small, large = (sides.round_s(name, lookahead) for name in names)
    return large / small
