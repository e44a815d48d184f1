"""Figures as `summary.json` holds them; what is not known is null."""

from typing import overload

from autotune.reports.summary import FigureSummary, SpeedSummary, TarSummary
from autotune.results import Evidence, Figure


@overload
def figure_summary(figure: Figure) -> FigureSummary: ...
@overload
def figure_summary(figure: Figure | None) -> FigureSummary | None: ...
def figure_summary(figure: Figure | None) -> FigureSummary | None:
    """A figure with its evidence and interval."""
    return None if figure is None else FigureSummary(figure.value, figure.evidence.value, interval(figure))


def tar_summary(estimated: Figure | None, measured: Figure | None, proxy: Figure | None = None) -> TarSummary:
    """Tokens per round as estimated and as measured, and the proxy's estimate before the draft was finished."""
    return TarSummary(
        _value(estimated),
        _value(measured),
        interval(estimated),
        interval(measured),
        _evidence(estimated),
        _value(proxy),
        interval(proxy),
    )


def speed_summary(predicted: Figure | None, measured: Figure | None = None) -> SpeedSummary:
    """A speed or speed-up as predicted and as measured."""
    return SpeedSummary(
        _value(predicted), _value(measured), interval(predicted), interval(measured), _evidence(predicted)
    )


def interval(figure: Figure | None) -> tuple[float, float] | None:
    """The figure's interval, if it has one."""
    return None if figure is None or figure.low is None or figure.high is None else (figure.low, figure.high)


def _value(figure: Figure | None) -> float | None:
    return None if figure is None else figure.value


def _evidence(figure: Figure | None) -> str:
    return (Evidence.ESTIMATED if figure is None else figure.evidence).value
