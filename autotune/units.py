"""Durations, sizes and counts as people write them: one parser for flags, the configuration file and Python."""

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_SECONDS = {"us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART = re.compile(rf"({_NUMBER})\s*({'|'.join(_SECONDS)})")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern}\s*)+")
_SCALED = re.compile(rf"({_NUMBER}|\d{{1,3}}(?:,\d{{3}})+)\s*([a-z]*)", re.IGNORECASE)

_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BYTES = {
    "": 1,
    "b": 1,
    **_DECIMAL,
    **{f"{letter}b": factor for letter, factor in _DECIMAL.items()},
    **{f"{letter}ib": 1 << 10 * power for power, letter in enumerate(_DECIMAL, start=1)},
}
_COUNTS = {"": 1, **_DECIMAL, "b": 10**9}


def parse_duration(text: object) -> float:
    """Seconds of a duration such as `30s`, `2m`, `1h30m`, `250ms`, `20us`, `30d`; a bare number is seconds.

    ValueError, which says how to write one, if it is none.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text)
    written = str(text).strip()
    if _DURATION.fullmatch(written):
        return sum(float(value) * _SECONDS[unit] for value, unit in _DURATION_PART.findall(written))
    try:
        return float(written)
    except ValueError:
        raise ValueError(f"{written!r} is not a duration; write 30s, 2m, 1h30m, 30d, 250ms or 20us") from None


def parse_size(text: object) -> int:
    """Bytes of a size such as `2GiB`, `512 MB`, `1.5g`; a bare number is bytes, and so is what a fraction rounds to.

    ValueError, which says how to write one, if it is none.
    """
    scaled = _scaled(text, _BYTES)
    if scaled is None:
        raise ValueError(f"{str(text).strip()!r} is not a size; write 2GiB, 512MiB, 512MB or a number of bytes")
    return round(scaled)


def parse_count(text: object) -> int:
    """A count such as `131072`, `131,072`, `500k`, `2M` or `1.3B`.

    ValueError, which says how to write one, if it is none, or no whole number.
    """
    scaled = _scaled(text, _COUNTS)
    if scaled is None or scaled != round(scaled):
        raise ValueError(f"{str(text).strip()!r} is not a count; write a whole number, 500k, 2M or 1.3B")
    return round(scaled)


def _scaled(text: object, factors: Mapping[str, int]) -> Decimal | None:
    """A number times the factor of its suffix; None if it is no number, or the suffix is not known."""
    if isinstance(text, bool):
        return None
    found = _SCALED.fullmatch(str(text).strip())
    if found is None:
        return None
    factor = factors.get(found[2].lower())
    try:
        return None if factor is None else Decimal(found[1].replace(",", "")) * factor
    except InvalidOperation:
        return None
