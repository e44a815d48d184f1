"""Looking after the tuning database: which entries this machine can use, and removing those nobody will."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from autotune.database.entries import BadEntry, parse_date
from autotune.database.file import DatabaseFile, Row
from autotune.database.subjects import acceptance_versions, latency_versions, slice_versions
from autotune.devices import find_device
from autotune.errors import BadRequest


@dataclass(frozen=True)
class Listed:
    """An entry, and why this machine and these versions cannot use it."""

    row: Row
    device_differs: str | None
    """How its device differs from this machine's; None: it does not."""
    versions_differ: str | None
    """How its versions differ from those installed; None: they do not."""

    @property
    def fits(self) -> bool:
        """Whether a run here may find it."""
        return self.device_differs is None and self.versions_differ is None

    def fields(self) -> dict[str, Any]:
        """Everything that is known of it, as JSON."""
        differences = {"device_differs": self.device_differs, "versions_differ": self.versions_differ}
        return {**asdict(self.row), "fits": self.fits, **differences}


@dataclass(frozen=True)
class Filter:
    """Which entries to list; what is None does not matter."""

    kind: str | None = None
    backend: str | None = None
    shape: str | None = None
    """Part of the shape's name, as `4L-2H`."""

    def admits(self, row: Row) -> bool:
        """Whether the entry is one of those."""
        return (
            (self.kind is None or row.kind == self.kind)
            and (self.backend is None or row.backend == self.backend)
            and (self.shape is None or self.shape in row.shape)
        )


@dataclass(frozen=True)
class PruneRequest:
    """What to remove: every entry that one of these applies to."""

    older_than_s: float | None = None
    other_versions: bool = False
    other_devices: bool = False
    everything: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Pruned:
    """What was removed, or would be."""

    removed: int
    bytes: int
    kept: int


def list_entries(file: DatabaseFile, wanted: Filter = Filter()) -> list[Listed]:
    """The entries that the filter admits, oldest first."""
    return [examine(row) for row in file.rows() if wanted.admits(row)]


def examine(row: Row) -> Listed:
    """The entry beside this machine and the versions installed here."""
    differs = row.device is not None and row.device != _fingerprint(row.device.partition(":")[0])
    versions = _versions(row.kind, row.backend)
    return Listed(row, row.device if differs else None, _difference(row.versions, versions))


def prune(file: DatabaseFile, request: PruneRequest) -> Pruned:
    """What pruning removed; BadRequest if it was asked for nothing."""
    reasons = _reasons(request)
    if not reasons:
        raise BadRequest("say what to prune: --older-than, --other-versions, --other-devices or --all")
    listed = list_entries(file)
    condemned = [entry.row for entry in listed if any(applies(entry) for applies in reasons)]
    if not request.dry_run:
        file.remove([row.key for row in condemned])
    return Pruned(len(condemned), sum(row.bytes for row in condemned), len(listed) - len(condemned))


def _reasons(request: PruneRequest) -> Sequence[Callable[[Listed], bool]]:
    reasons: list[Callable[[Listed], bool]] = []
    if request.everything:
        reasons.append(lambda _: True)
    if request.other_versions:
        reasons.append(lambda entry: entry.versions_differ is not None)
    if request.other_devices:
        reasons.append(lambda entry: entry.device_differs is not None)
    if request.older_than_s is not None:
        try:
            oldest = datetime.now(UTC) - timedelta(seconds=request.older_than_s)
        except OverflowError:
            raise BadRequest(f"--older-than {request.older_than_s:g}s: that is before the calendar begins") from None
        reasons.append(lambda entry: _date(entry.row) < oldest)
    return reasons


def _date(row: Row) -> datetime:
    """When the entry was made; the beginning of time if it does not say."""
    try:
        return parse_date(row.created)
    except BadEntry:
        return datetime.min.replace(tzinfo=UTC)


@cache
def _fingerprint(kind: str) -> str | None:
    """Fingerprint of this machine's device of that kind; None if there is none."""
    try:
        return find_device(kind).fingerprint
    except BadRequest:
        return None


@cache
def _versions(kind: str, backend: str | None) -> dict[str, str]:
    """Versions that an entry made now would have; none for a backend that is not known here."""
    if backend is None:
        return acceptance_versions()
    try:
        return slice_versions(backend) if kind == "slices" else latency_versions(backend)
    except BadRequest:
        return {}


def _difference(theirs: dict[str, str], ours: dict[str, str]) -> str | None:
    """Names and versions of theirs that are not ours; None if all are equal."""
    names = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    return ", ".join(f"{name} {theirs.get(name, 'absent')}" for name in names) or None
