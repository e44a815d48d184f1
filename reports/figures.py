"""The picture of a run: every candidate's round time against its tokens per round (the only user of matplotlib)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from autotune.reports.facts import RunFacts
from autotune.results import Figure, RunKind, Score, TrialRecord, TrialState, Validated

# Okabe and Ito's palette: told apart by colour-blind readers, and by lightness in print.
_FRONT, _CHOSEN, _DECODED, _ALONE = "#0072B2", "#D55E00", "#E69F00", "#111111"
_CANDIDATE, _INK, _QUIET, _GUIDE = "#8FA3AD", "#333333", "#70787D", "#D3D7DA"
_GUIDE_SPEEDUPS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
_MOST_TICKS = 11
_ROOM_FOR_LABEL = 0.22


def pareto_figure(facts: RunFacts) -> Picture:
    """Round time (ms) against tokens per round: all candidates, the front, the decoded drafts and k = 0.

    Points of equal speed-up lie on one line, since the speed-up is tokens · step time / round time.
    """
    picture = Picture(figsize=(8.4, 5.4), dpi=160, layout="constrained", facecolor="white")
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    scores = [score for record in facts.records for score in record.scores]
    _scale(axes, facts, scores)
    _speedup_guides(axes, facts.latency.step_s)
    _candidates(axes, scores)
    _front(axes, facts.front)
    _decoded(axes, facts)
    _target_alone(axes, facts.latency.step_s)
    _words(axes, facts, scores)
    return picture


def save_pareto(facts: RunFacts, folder: Path) -> None:
    """Write `pareto.png` and `pareto.svg` into the folder."""
    picture = pareto_figure(facts)
    picture.savefig(folder / "pareto.png")
    # No date and no random ids: the same run draws the same bytes.
    with rc_context({"svg.hashsalt": "autotune"}):
        picture.savefig(folder / "pareto.svg", metadata={"Date": None})


def _scale(axes: Axes, facts: RunFacts, scores: Sequence[Score]) -> None:
    """Logarithmic axes with plain numbers on them: there, equal speed-ups are parallel straight lines."""
    rounds_ms, tokens = _points(scores)
    rounds_ms += [1e3 * facts.latency.step_s] + [1e3 * draft.round_s for draft in facts.validated]
    tokens += [1.0] + [draft.tar_measured.value for draft in facts.validated]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(min(rounds_ms) / 1.2, max(rounds_ms) * 1.2)
    axes.set_ylim(min(tokens) / 1.16, max(tokens) * 1.22)
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        axis.set_major_locator(FixedLocator(_round_numbers(*limits)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())


def _round_numbers(low: float, high: float) -> list[float]:
    """Numbers for a logarithmic axis from low to high: the finest of the usual series that is not crowded."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for series in ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 4, 6, 8), (1, 2, 4), (1, 3)):
        ticks = [step * 10.0**decade for decade in decades for step in series]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= _MOST_TICKS:
            return ticks
    return [10.0**decade for decade in decades if low <= 10.0**decade <= high]


def _speedup_guides(axes: Axes, step_s: float) -> None:
    """Lines of equal speed-up, labelled where they leave the picture."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    step_ms = 1e3 * step_s
    for speedup in _GUIDE_SPEEDUPS:
        enters, leaves = max(left, bottom * step_ms / speedup), min(right, top * step_ms / speedup)
        if leaves < enters * 1.15:
            continue
        even = speedup == 1.0
        axes.plot(
            [enters, leaves],
            [speedup * enters / step_ms, speedup * leaves / step_ms],
            color=_INK if even else _GUIDE,
            lw=1.1 if even else 0.8,
            zorder=1,
        )
        upwards = leaves < right
        axes.annotate(
            f"{speedup:g}×",
            (leaves, speedup * leaves / step_ms),
            xytext=(2, 3) if upwards else (4, 2),
            textcoords="offset points",
            ha="center" if upwards else "left",
            va="bottom" if upwards else "center",
            fontsize=8,
            fontweight="bold" if even else "normal",
            color=_INK if even else _QUIET,
            annotation_clip=False,
        )


def _candidates(axes: Axes, scores: Sequence[Score]) -> None:
    x, y = _points(scores)
    axes.scatter(x, y, s=11, color=_CANDIDATE, alpha=0.45, linewidths=0, zorder=2)


def _front(axes: Axes, front: Sequence[tuple[TrialRecord, Score]]) -> None:
    scores = sorted((score for _, score in front), key=lambda score: score.round_s.value)
    x, y = _points(scores)
    for score in scores:
        _bar(axes, score.round_s.value, score.tokens_per_round, color=_FRONT, lw=0.8, alpha=0.45, zorder=2.5)
    axes.plot(x, y, color=_FRONT, lw=1.2, drawstyle="steps-post", marker="o", ms=5, mec="white", mew=0.6, zorder=3)


def _decoded(axes: Axes, facts: RunFacts) -> None:
    """Measured positions of the validated drafts, each tied to where it was predicted."""
    for draft in facts.validated:
        chosen = draft == facts.chosen
        x, y = 1e3 * draft.round_s, draft.tar_measured.value
        _bar(axes, draft.round_s, draft.tar_measured, color=_CHOSEN if chosen else _DECODED, lw=1.1, zorder=4.5)
        predicted = _predicted(facts, draft)
        if predicted:
            axes.plot([predicted[0], x], [predicted[1], y], color=_CHOSEN if chosen else _DECODED, lw=1.0, zorder=4)
        axes.plot(
            x,
            y,
            marker="*" if chosen else "s",
            ms=15 if chosen else 6.5,
            color=_CHOSEN if chosen else _DECODED,
            mec="white",
            mew=0.9,
            zorder=6 if chosen else 5,
        )
        if chosen:
            _label(
                axes,
                f"{draft.build.shape}, k = {draft.lookahead}\n{draft.speedup_measured.value:.2f}× (measured)",
                x,
                y,
            )


def _bar(axes: Axes, round_s: float, tokens: Figure, **style: Any) -> None:
    """The interval of tokens per round as a thin vertical bar; nothing where there is none."""
    if tokens.low is not None and tokens.high is not None:
        axes.plot([1e3 * round_s] * 2, [tokens.low, tokens.high], solid_capstyle="butt", **style)


def _label(axes: Axes, text: str, x: float, y: float) -> None:
    """A label above the point, to its left where there is room: above the front there are no candidates."""
    across = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[0]
    axes.annotate(
        text,
        (x, y),
        xytext=(-10, 11) if across > _ROOM_FOR_LABEL else (-8, 16),
        textcoords="offset points",
        fontsize=10,
        fontweight="bold",
        color=_CHOSEN,
        ha="right" if across > _ROOM_FOR_LABEL else "left",
        va="bottom",
        bbox={"boxstyle": "round,pad=0.2", "fc": "white", "ec": "none", "alpha": 0.85},
        zorder=7,
    )


def _target_alone(axes: Axes, step_s: float) -> None:
    axes.plot(1e3 * step_s, 1.0, marker="D", ms=7.5, color=_ALONE, mec="white", mew=0.9, zorder=6)
    axes.annotate(
        "k = 0, the target alone",
        (1e3 * step_s, 1.0),
        xytext=(9, -3),
        textcoords="offset points",
        fontsize=8.5,
        color=_ALONE,
        va="top",
    )


def _words(axes: Axes, facts: RunFacts, scores: Sequence[Score]) -> None:
    pointless = sum(record.state is TrialState.REJECTED for record in facts.records)
    note = f"{len(scores)} candidates of {len(facts.records)} builds"
    screened = sum(record.state is TrialState.SCREENED for record in facts.records)
    note += f", {pointless} of which have no score and no point" if pointless else ""
    note += f"{' and' if pointless else ','} {screened} were screened out" if screened else ""
    axes.set_title(
        f"{'Plan of drafts' if facts.kind is RunKind.PLAN else 'Drafts'} for {facts.target}",
        loc="left",
        fontsize=12.5,
        fontweight="bold",
        color=_INK,
        pad=38,
    )
    axes.annotate(
        f"{note}; a line joins points of equal speed-up over the target alone",
        (0.0, 1.0),
        xytext=(0, 25),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=8.5,
        color=_QUIET,
        annotation_clip=False,
    )
    axes.set_xlabel("time of one round (ms)", color=_INK)
    assumed = ": a stand-in" if facts.kind is RunKind.PLAN else ""
    axes.set_ylabel(f"tokens per round, the target's own included{assumed}", color=_INK)
    axes.tick_params(colors=_INK, labelsize=8.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9AA1A6")
    axes.legend(handles=_legend(facts), loc="lower right", fontsize=8.5, framealpha=0.92, edgecolor="none")


def _legend(facts: RunFacts) -> list[Line2D]:
    def key(label: str, **style: object) -> Line2D:
        return Line2D([], [], label=label, mec="white", **style)  # type: ignore[arg-type]

    keys = [key("candidate (predicted)", ls="", marker="o", ms=4, color=_CANDIDATE, alpha=0.7)]
    if facts.front:
        keys.append(key("Pareto front (predicted)", color=_FRONT, marker="o", ms=5))
    if any(draft != facts.chosen for draft in facts.validated):
        keys.append(key("decoded (measured)", ls="", marker="s", ms=6.5, color=_DECODED))
    if facts.chosen:
        keys.append(key("chosen (measured)", ls="", marker="*", ms=13, color=_CHOSEN))
    if facts.front or facts.validated:
        keys.append(Line2D([], [], label="95 % interval of tokens per round", ls="", marker="|", ms=9, color=_FRONT))
    return keys


def _points(scores: Sequence[Score]) -> tuple[list[float], list[float]]:
    """Round times in ms and tokens per round."""
    return [1e3 * score.round_s.value for score in scores], [score.tokens_per_round.value for score in scores]


def _predicted(facts: RunFacts, draft: Validated) -> tuple[float, float] | None:
    """Where the draft was predicted: (round ms, tokens per round)."""
    for record in facts.records:
        for score in record.scores:
            if record.build == draft.build and score.lookahead == draft.lookahead:
                return 1e3 * score.round_s.value, score.tokens_per_round.value
    return None
