"""A target's latencies as its user measured them elsewhere: `--target-latency FILE`.

JSON:

    {"verify_s": {"1": 0.041, "2": 0.0415, "5": 0.043, "9": 0.047},
     "context_tokens": 1024, "device": "4x A100", "overhead_s": 0.0003, "plain_overhead_s": 0.0001, "batch": 1}

`verify_s[n]`: seconds in which the target computes n new positions of one sequence, n = 1 … k + 1 for a lookahead of k;
lengths that are left out are interpolated between their neighbours.  A list of samples may stand for each number.  Only
`verify_s` is needed.  CSV: a header with the columns `n` and `verify_s`, one measurement a line; several lines of one n
are samples of it; the other fields have their defaults.
"""

import csv
import io
import json
import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from autotune.errors import BadRequest, unknown_name
from autotune.extrapolation import fill_between
from autotune.results import Evidence, LatencyTable, MeasureSettings, TargetLatency

logger = logging.getLogger(__name__)

_KEYS = ("verify_s", "context_tokens", "device", "overhead_s", "plain_overhead_s", "batch")
_COLUMNS = ("n", "verify_s")
_FASTER_SHARE = 0.1
"""More positions that take so much less time than one are worth a warning."""
_MOST_SECONDS = 3600.0


def read_target_latency(path: Path, lookaheads: Iterable[int]) -> TargetLatency:
    """The user's table, for verifications of 1 … max(`lookaheads`) + 1 positions; evidence `measured`, by its `source`.

    BadRequest in one line if the file is missing, malformed or absurd, or does not reach the longest lookahead.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise BadRequest(f"--target-latency {path}: the file does not exist") from None
    except OSError as error:
        raise BadRequest(f"--target-latency {path}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise _bad(path, "it is not UTF-8 text; see the format in the documentation") from None
    fields = _csv_fields(text, path) if path.suffix.lower() == ".csv" else _json_fields(text, path)
    unknown = sorted(set(fields) - set(_KEYS))
    if unknown:
        raise _bad(path, str(unknown_name("key", unknown[0], _KEYS)))
    samples_s = _samples(fields.get("verify_s"), path)
    largest = max(lookaheads) + 1
    if max(samples_s) < largest or 1 not in samples_s:
        missing = 1 if 1 not in samples_s else largest
        why = "a step of the target alone needs" if missing == 1 else f"lookahead {largest - 1} needs"
        raise _bad(path, f"verify_s has no {missing}, which {why}: measure it too")
    verify_s, timed = _dense(samples_s, largest, path)
    context = _whole(fields.get("context_tokens", 1), "context_tokens", path)
    batch = _whole(fields.get("batch", 1), "batch", path)
    device = fields.get("device", "unknown device")
    if not isinstance(device, str) or not device.strip():
        raise _bad(path, f"device is {device!r}, not a name")
    _warn_if_odd(verify_s, path)
    at = f"{device}, {context} tokens of context" if "context_tokens" in fields else device
    return TargetLatency(
        verify=LatencyTable(
            verify_s, MeasureSettings(context_tokens=context, threads=1), device, Evidence.MEASURED, timed=timed
        ),
        overhead_s=_overhead(fields.get("overhead_s", 0.0), "overhead_s", path),
        plain_overhead_s=_overhead(fields.get("plain_overhead_s", 0.0), "plain_overhead_s", path),
        source=f"measured by the user: {path.name} ({at}{f', batch {batch}' if batch > 1 else ''})",
    )


def _json_fields(text: str, path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"it is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise _bad(path, f"a JSON object is needed, not a {type(fields).__name__}")
    return fields


def _csv_fields(text: str, path: Path) -> dict[str, Any]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    samples: dict[str, list[float]] = {}
    try:
        if [name.strip() for name in reader.fieldnames or ()] != list(_COLUMNS):
            raise _bad(path, f"its first line must be {','.join(_COLUMNS)}")
        reader.fieldnames = list(_COLUMNS)
        for row in reader:
            if None in row or None in row.values():
                raise _bad(path, f"line {reader.line_num} does not have {len(_COLUMNS)} columns")
            samples.setdefault(row["n"].strip(), []).append(float(row["verify_s"]))
    except csv.Error as error:
        raise _bad(path, f"line {reader.line_num}: {error}") from None
    except ValueError:
        raise _bad(path, f"line {reader.line_num}: verify_s is no number") from None
    return {"verify_s": samples}


def _samples(verify_s: object, path: Path) -> dict[int, list[float]]:
    """The seconds given for each number of positions."""
    if not isinstance(verify_s, Mapping) or not verify_s:
        raise _bad(path, 'it needs "verify_s": {"1": seconds, "2": seconds, …}')
    samples_s: dict[int, list[float]] = {}
    for name, given in verify_s.items():
        if not (str(name).isascii() and str(name).isdecimal()) or int(name) < 1:
            raise _bad(path, f"verify_s has the key {name!r}, which is no number of positions")
        seconds = given if isinstance(given, list) else [given]
        if not seconds or int(name) in samples_s:
            raise _bad(path, f"verify_s[{name}] is {'given twice' if seconds else 'empty'}")
        for value in seconds:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise _bad(path, f"verify_s[{name}] is {value!r}, not a positive number of seconds")
            if value > _MOST_SECONDS:
                raise _bad(path, f"verify_s[{name}] is {value:g} s; seconds are needed, not milliseconds")
        samples_s[int(name)] = [float(value) for value in seconds]
    return samples_s


def _dense(
    samples_s: Mapping[int, list[float]], largest: int, path: Path
) -> tuple[tuple[tuple[float, ...], ...], tuple[int, ...] | None]:
    """Samples of 1 … `largest`, and which of them were given (None: all)."""
    timed = tuple(n for n in sorted(samples_s) if n <= largest)
    if len(timed) == largest:
        return tuple(tuple(samples_s[n]) for n in timed), None
    if timed[-1] < largest:  # a longer one stands beyond it, as was checked
        timed = (*timed, min(n for n in samples_s if n > largest))
    missing = sorted(set(range(1, largest + 1)) - set(timed))
    logger.warning(
        "%s: verify_s of %s is interpolated between its neighbours", path, ", ".join(str(n) for n in missing)
    )
    medians = fill_between({n: [median(samples_s[n])] for n in timed}, timed[-1])
    dense = tuple(tuple(samples_s[n]) if n in timed else medians[n - 1] for n in range(1, largest + 1))
    return dense, tuple(n for n in timed if n <= largest)


def _whole(value: object, name: str, path: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _bad(path, f"{name} is {value!r}, not a positive whole number")
    return value


def _overhead(value: object, name: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MOST_SECONDS:
        raise _bad(path, f"{name} is {value!r}, not a number of seconds")
    return float(value)


def _warn_if_odd(verify_s: tuple[tuple[float, ...], ...], path: Path) -> None:
    """Warn where more positions take clearly less time than fewer."""
    medians = [median(samples) for samples in verify_s]
    for n in range(2, len(medians) + 1):
        if medians[n - 1] < (1 - _FASTER_SHARE) * medians[n - 2]:
            logger.warning(
                "%s: %d positions take %g s and %d only %g s; is that so?",
                path, n - 1, medians[n - 2], n, medians[n - 1],
            )  # fmt: skip


def _bad(path: Path, problem: str) -> BadRequest:
    return BadRequest(f"--target-latency {path}: {problem}")
