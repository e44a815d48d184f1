"""Entries of the tuning database: a subject, what was found about it, and when; one JSON line each when exported."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from autotune.database.subjects import (
    AcceptanceSubject,
    BurstSubject,
    SliceSubject,
    Subject,
    TargetSubject,
    parse_subject,
    subject_json,
    subject_key,
)
from autotune.errors import BadRequest
from autotune.results import Acceptance, Built, LatencyTable, TargetLatency

ENTRY_SCHEMA = 1
"""Raised when an entry's fields change their meaning; new optional fields do not raise it."""


@dataclass(frozen=True)
class KnownBurst:
    """What compiling and measuring a draft came to."""

    built: Built
    """Its `program` is empty: the program itself was not kept."""
    burst: LatencyTable


Value = KnownBurst | TargetLatency | Acceptance

_VALUES: Mapping[type[Subject], TypeAdapter[Any]] = {
    BurstSubject: TypeAdapter(KnownBurst),
    TargetSubject: TypeAdapter(TargetLatency),
    SliceSubject: TypeAdapter(TargetLatency),
    AcceptanceSubject: TypeAdapter(Acceptance),
}


class BadEntry(ValueError):
    """An entry that is malformed or contradicts itself."""


class NewerEntry(BadEntry):
    """An entry that a newer version wrote."""


@dataclass(frozen=True)
class Entry:
    """A subject and what is known about it."""

    subject: Subject
    value: Value
    created: str
    """When it was measured or estimated, UTC, as `now()` writes it."""

    @property
    def key(self) -> str:
        """The database key."""
        return subject_key(self.subject)

    def to_json(self) -> str:
        """One line that `parse_entry` reads."""
        fields = {
            "schema": ENTRY_SCHEMA,
            "created": self.created,
            "subject": subject_json(self.subject),
            "value": value_json(self),
        }
        return json.dumps(fields, allow_nan=False, sort_keys=True)


def now() -> str:
    """The present second in UTC, as ISO 8601."""
    return _written(datetime.now(UTC))


def parse_date(text: str) -> datetime:
    """The moment that `now` wrote; BadEntry if it is no date with a time zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadEntry(f"{text!r} is no date") from None
    if moment.tzinfo is None:
        raise BadEntry(f"{text!r} has no time zone")
    return moment


def value_json(entry: Entry) -> dict[str, Any]:
    """The entry's value as JSON."""
    dumped: dict[str, Any] = _VALUES[type(entry.subject)].dump_python(entry.value, mode="json")
    return dumped


def parse_entry(text: str | bytes) -> Entry:
    """The entry of a line that `Entry.to_json` wrote; BadEntry says what is wrong with it."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadEntry(f"not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise BadEntry(f"a JSON object is needed, not a {type(fields).__name__}")
    missing = {"schema", "created", "subject", "value"} - fields.keys()
    if missing:
        raise BadEntry(f"{', '.join(sorted(missing))} is missing")
    if not isinstance(fields["schema"], int) or fields["schema"] < 1:
        raise BadEntry(f"{fields['schema']!r} is no schema version")
    if fields["schema"] > ENTRY_SCHEMA:
        raise NewerEntry(
            f"schema {fields['schema']} is newer than the {ENTRY_SCHEMA} known here: upgrade draft-autotune"
        )
    return make_entry(fields["subject"], fields["value"], fields["created"])


def make_entry(subject: object, value: object, created: object) -> Entry:
    """The entry of these JSON parts; BadEntry says what is wrong with them."""
    try:
        parsed = parse_subject(subject)
        entry = Entry(parsed, _VALUES[type(parsed)].validate_python(value), _written(parse_date(str(created))))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise BadEntry(f"{place}: {fault['msg']}") from None
    except BadRequest as error:  # of settings that check themselves
        raise BadEntry(str(error)) from None
    _check(entry)
    return entry


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _check(entry: Entry) -> None:
    """Raise BadEntry unless the value can be an answer to its subject."""
    match entry.subject, entry.value:
        case BurstSubject() as subject, KnownBurst(built, burst):
            _check_table(burst, subject.max_lookahead, subject.device)
            _check_positive("build seconds", [built.build_s])
        case (TargetSubject() | SliceSubject()) as subject, TargetLatency(verify, overhead_s, plain_overhead_s):
            _check_table(verify, subject.max_lookahead + 1, subject.device)
            if not (math.isfinite(overhead_s) and math.isfinite(plain_overhead_s)):
                raise BadEntry("an overhead is not finite")
        case AcceptanceSubject() as subject, Acceptance(tokens, rounds, accepted, examined):
            columns = subject.max_lookahead + 1
            if not tokens or len(rounds) != len(tokens) or any(len(row) != columns for row in rounds):
                raise BadEntry(f"{len(rounds)} rows of rounds do not fit {len(tokens)} traces and {columns} lookaheads")
            if not len(accepted) == len(examined) == columns - 1:
                raise BadEntry("accepted and examined tokens are not given for every place in a burst")
            _check_positive("tokens", tokens)
            _check_positive("rounds", [count for row in rounds for count in row])
            if not all(0 <= count < math.inf for count in [*accepted, *examined]):
                raise BadEntry("a count of accepted or examined tokens is negative or not finite")


def _check_table(table: LatencyTable, rows: int, device: str) -> None:
    if table.largest != rows:
        raise BadEntry(f"latencies of {table.largest} lengths, where {rows} are needed")
    if not all(table.samples_s):
        raise BadEntry("a length has no samples")
    if table.device != device:
        raise BadEntry(f"the latencies are of the device {table.device!r}, not of the {device!r} it says")
    _check_positive("samples", [seconds for row in table.samples_s for seconds in row])


def _check_positive(name: str, values: Iterable[float]) -> None:
    if not all(0 < value < math.inf for value in values):
        raise BadEntry(f"{name} must be positive and finite")
