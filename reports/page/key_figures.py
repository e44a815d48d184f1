"""The figures under the verdict: few, large, each with how it was got."""

from dataclasses import dataclass

from autotune.reports.cells import count, number, speed, times
from autotune.reports.decoded import program
from autotune.reports.summary import DraftSummary, RunSummary
from autotune.results import Evidence

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class KeyFigure:
    """A figure to be read at a glance."""

    label: str
    value: str
    detail: str = ""
    """What it is compared with, its interval, or its make."""
    evidence: str = ""
    """Empty for what is not a figure: a shape, a count."""


def key_figures(summary: RunSummary) -> list[KeyFigure]:
    """Those of the draft that is advised, or of the best there is, beside the target alone."""
    best, base = summary.best, summary.baseline
    figures = [_speedup(best), _tokens_per_s(summary), _tokens_per_round(best)]
    if best.round is not None:
        spent = best.round
        figures.append(
            KeyFigure(
                "time of a round",
                f"{1e3 * spent.round_s:,.3g} ms",
                f"a plain step: {1e3 * base.step_s:,.3g} ms",
                Evidence.MEASURED,
            )
        )
    else:
        figures.append(
            KeyFigure("a plain step", f"{1e3 * base.step_s:,.3g} ms", "the target alone", base.step_evidence)
        )
    if best.shape is not None:
        figures.append(KeyFigure("draft", f"{count(best.parameters)}", f"{best.name}, {program(best)}"))
    figures.append(KeyFigure("builds tried", f"{summary.trials}", f"in {_duration(summary.wall_s)}"))
    return figures


def _speedup(best: DraftSummary) -> KeyFigure:
    speedup = best.speedup
    if best.lookahead == 0:
        return KeyFigure("speed-up", "1.00×", "the target alone, k = 0")
    value, interval, evidence = _known(
        speedup.measured, speedup.measured_interval, speedup.predicted, speedup.predicted_interval,
        speedup.predicted_evidence,
    )  # fmt: skip
    return KeyFigure("speed-up", times(value, None), _range(interval, 2), evidence)


def _tokens_per_s(summary: RunSummary) -> KeyFigure:
    tokens, base = summary.best.tokens_per_s, summary.baseline
    value, _, evidence = _known(
        tokens.measured, tokens.measured_interval, tokens.predicted, tokens.predicted_interval,
        tokens.predicted_evidence,
    )  # fmt: skip
    alone = f"the target alone: {speed(base.tokens_per_s)} ({base.evidence})" if summary.best.lookahead else ""
    return KeyFigure("tokens/s", speed(value), alone, evidence)


def _tokens_per_round(best: DraftSummary) -> KeyFigure:
    tar = best.tar
    if best.lookahead == 0:
        return KeyFigure("tokens per round", "1", "the target's own")
    value, interval, evidence = _known(
        tar.measured, tar.measured_interval, tar.estimated, tar.estimated_interval, tar.estimated_evidence
    )
    return KeyFigure(f"tokens per round, k = {best.lookahead}", number(value, None, 2), _range(interval, 2), evidence)


def _known(
    measured: float | None, measured_interval: Interval, expected: float | None, expected_interval: Interval, how: str
) -> tuple[float | None, Interval, str]:
    """As measured, or else as expected."""
    if measured is not None:
        return measured, measured_interval, Evidence.MEASURED
    return expected, expected_interval, how


def _range(interval: Interval, digits: int) -> str:
    return "" if interval is None else f"{interval[0]:,.{digits}f} … {interval[1]:,.{digits}f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
