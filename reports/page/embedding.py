"""Data, scripts and styles inside a page: compact, and never taken for markup, whatever strings they hold."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files

from autotune.reports.charts.theme import Row

_DIGITS = 6
"""Significant digits of numbers; pictures and tables show fewer."""
_ESCAPES = {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"}

Column = list[float | int | bool | None] | dict[str, list[str | None] | list[int]]
"""Values in order; words as a list of different ones, and for each row the place in it."""


def asset(name: str) -> str:
    """The text of a script or style that pages embed."""
    return files("autotune.reports").joinpath("templates", name).read_text(encoding="utf-8")


def script_json(value: object) -> str:
    """JSON that may stand inside a script element: it cannot end it, nor open a comment; NaN and infinity are null."""
    return json.dumps(_finite(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False).translate(_ESCAPES)


def columns(rows: Sequence[Row]) -> dict[str, Column]:
    """Rows of the same fields as columns, words told once: a fraction of the size."""
    return {name: _column([row[name] for row in rows]) for name in (rows[0] if rows else ())}


def content_hash(text: str) -> str:
    """The source expression of a Content-Security-Policy that admits an element of this content."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _column(values: Sequence[str | float | int | bool | None]) -> Column:
    if any(isinstance(value, str) for value in values):
        words = list(dict.fromkeys(None if value is None else str(value) for value in values))
        places = {word: place for place, word in enumerate(words)}
        return {"words": words, "at": [places[None if value is None else str(value)] for value in values]}
    return [value for value in values if not isinstance(value, str)]


def _finite(value: object) -> object:
    if isinstance(value, float):
        rounded = float(f"{value:.{_DIGITS}g}")
        return rounded if abs(rounded) < float("inf") else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
