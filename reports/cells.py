"""Numbers, text and tables as a Markdown report writes them."""

from collections.abc import Iterable, Sequence

from autotune.reports.figure_summaries import FigureSummary

_UNKNOWN = "–"
_FAST = 20.0
"""Tokens/s from which whole numbers are exact enough."""


def mebibytes(size_bytes: int) -> str:
    """A size."""
    return f"{size_bytes / 2**20:,.1f} MiB"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; its cells may hold any text."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return inline(text).replace("|", "\\|")


def inline(text: str) -> str:
    """Text on one line that Markdown does not take for markup."""
    one_line = " ".join(text.split())
    for mark in "\\`*_<>[]":
        one_line = one_line.replace(mark, "\\" + mark)
    return one_line


def number(value: float | None, interval: tuple[float, float] | None, digits: int) -> str:
    """A value with its interval; a dash where it is not known."""
    if value is None:
        return _UNKNOWN
    text = f"{value:,.{digits}f}"
    return text if interval is None else f"{text} ({interval[0]:,.{digits}f} … {interval[1]:,.{digits}f})"


def figure(known: FigureSummary | None, digits: int) -> str:
    """A figure with its interval."""
    return _UNKNOWN if known is None else number(known.value, known.interval, digits)


def milliseconds(seconds: FigureSummary) -> str:
    """Milliseconds with their interval; long ones without decimals."""
    interval = seconds.interval and (1e3 * seconds.interval[0], 1e3 * seconds.interval[1])
    digits = 3 if seconds.value is None or seconds.value < 1.0 else 0
    return number(None if seconds.value is None else 1e3 * seconds.value, interval, digits)


def speed(tokens_per_s: float | None, interval: tuple[float, float] | None = None) -> str:
    """Tokens/s; slow models need decimals."""
    return number(tokens_per_s, interval, 0 if tokens_per_s is None or tokens_per_s >= _FAST else 3)


def times(value: float | None, interval: tuple[float, float] | None) -> str:
    """A ratio with its interval."""
    if value is None:
        return _UNKNOWN
    return f"{value:.2f}×" + ("" if interval is None else f" ({interval[0]:.2f} … {interval[1]:.2f})")


def error(expected: float | None, measured: float | None) -> str:
    """How far the expectation was off, as a share of the measured figure."""
    return _UNKNOWN if expected is None or not measured else f"{expected / measured - 1.0:+.1%}"


def count(parameters: int) -> str:
    """Parameters in millions."""
    return f"{parameters / 1e6:,.2f} M"
