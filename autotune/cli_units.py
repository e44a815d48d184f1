"""Sizes, durations and counts for people to read; what these functions write, `autotune.units` reads again."""

from bisect import bisect_right

_SIZE_STEPS = [(1, "B"), (1 << 10, "KiB"), (1 << 20, "MiB"), (1 << 30, "GiB"), (1 << 40, "TiB")]
_COUNT_STEPS = [(1, ""), (10**3, "k"), (10**6, "M"), (10**9, "B"), (10**12, "T")]
_SHORT_STEPS = [(1e-6, "µs"), (1e-3, "ms"), (1.0, "s")]
_LONG_STEPS = [(86400, "d"), (3600, "h"), (60, "min"), (1, "s")]


def bytes_text(size_bytes: float) -> str:
    """A size in bytes with three digits: `843 B`, `1.5 GiB`."""
    return _scaled(size_bytes, _SIZE_STEPS)


def count_text(count: float) -> str:
    """A count (of parameters, of tokens) with three digits: `950`, `131 k`, `1.3 B`."""
    return _scaled(count, _COUNT_STEPS)


def seconds_text(seconds: float) -> str:
    """A duration in seconds with three digits up to a minute (`12.3 ms`), then in its two largest units (`1 h 30 min`).

    A negative one has its sign before it.
    """
    if seconds < 0:
        return f"-{seconds_text(-seconds)}"
    if seconds < 59.95:
        return "0 s" if seconds == 0 else _scaled(seconds, _SHORT_STEPS)
    place = next(place for place, (size, _) in enumerate(_LONG_STEPS) if seconds >= size - 0.05)
    (large, large_unit), (small, small_unit) = _LONG_STEPS[place : place + 2]
    whole, rest = divmod(round(seconds / small), large // small)
    return f"{whole} {large_unit}" + (f" {rest} {small_unit}" if rest else "")


def _scaled(value: float, steps: list[tuple[float, str]] | list[tuple[int, str]]) -> str:
    """The value with three digits in the largest unit that it has one of, or rounds up to one of."""
    sizes = [size for size, _ in steps]
    place = max(bisect_right(sizes, abs(value)) - 1, 0)
    if place + 1 < len(steps) and float(_digits(value / sizes[place])) * sizes[place] >= sizes[place + 1]:
        place += 1
    return f"{_digits(value / sizes[place])} {steps[place][1]}".rstrip()


def _digits(number: float) -> str:
    return f"{number:.0f}" if abs(number) >= 99.95 else f"{number:.3g}"
