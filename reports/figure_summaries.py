"""Figures as `summary.json` holds them; what is not known is null."""

from dataclasses import dataclass
from typing import overload

from autotune.results import Evidence, Figure


@dataclass(frozen=True)
class FigureSummary:
    """A number, how it was got, and its interval `[low, high]` if it has one."""

    value: float | None
    evidence: str
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class TarSummary:
    """Tokens per round, by the proxy and by decoding; null where unknown."""

    estimated: float | None
    measured: float | None
    estimated_interval: tuple[float, float] | None = None
    measured_interval: tuple[float, float] | None = None
    estimated_evidence: str = "estimated"
    proxy: float | None = None
    """As the search estimated it, before the draft was finished; of validated drafts."""
    proxy_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class SpeedSummary:
    """A speed, before and after it was really decoded; null where unknown."""

    predicted: float | None
    measured: float | None
    predicted_interval: tuple[float, float] | None = None
    measured_interval: tuple[float, float] | None = None
    predicted_evidence: str = "estimated"


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
