"""Which entries fit this machine and these versions, and pruning those that do not."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from autotune.database.entries import now
from autotune.database.file import DatabaseFile
from autotune.database.subjects import acceptance_versions, latency_versions
from autotune.database.upkeep import Filter, Pruned, PruneRequest, list_entries, prune
from autotune.errors import BadRequest
from tests.support.entries import acceptance_entry, all_kinds, burst_entry, target_entry

HERE = burst_entry(1, created=now())
OTHER_DEVICE = burst_entry(2, device="cpu:Another:64 cores")
OTHER_VERSIONS = burst_entry(3, versions={**latency_versions("onnxruntime"), "onnx": "0.1", "sources": "0"})
NO_SUCH_DEVICE = burst_entry(4, device="abacus:wood", created=now())
NO_SUCH_BACKEND = burst_entry(5, backend="gcc", versions={"gcc": "1"}, created=now())
ENTRIES = [HERE, OTHER_DEVICE, OTHER_VERSIONS, NO_SUCH_DEVICE, NO_SUCH_BACKEND, target_entry(), acceptance_entry()]


@pytest.fixture
def file(tmp_path: Path) -> DatabaseFile:
    file = DatabaseFile(tmp_path / "tuning.db")
    file.add(ENTRIES, replace=True)
    return file


def test_what_fits_and_what_does_not(file: DatabaseFile) -> None:
    listed = {entry.row.key: entry for entry in list_entries(file)}
    for fitting in (HERE, target_entry(), acceptance_entry()):
        assert listed[fitting.key].fits
    assert listed[OTHER_DEVICE.key].device_differs == "cpu:Another:64 cores"
    assert listed[OTHER_DEVICE.key].versions_differ is None
    assert listed[OTHER_VERSIONS.key].versions_differ == "onnx 0.1, sources 0"
    assert listed[OTHER_VERSIONS.key].device_differs is None
    assert listed[NO_SUCH_DEVICE.key].device_differs == "abacus:wood"
    assert listed[NO_SUCH_BACKEND.key].versions_differ == "gcc 1"
    assert sum(entry.fits for entry in listed.values()) == 3


def test_a_package_that_is_gone_or_new_is_another_version(tmp_path: Path) -> None:
    file = DatabaseFile(tmp_path / "new.db")
    ours = acceptance_versions()
    gone = {name: version for name, version in ours.items() if name != "torch"}
    file.add([burst_entry(versions={**latency_versions("onnxruntime"), "cuda": "13"})], replace=True)
    assert list_entries(file)[0].versions_differ == "cuda 13"
    file.add([burst_entry(versions=gone)], replace=True)
    assert any("onnx absent" in (entry.versions_differ or "") for entry in list_entries(file))


def test_filters(file: DatabaseFile) -> None:
    def keys(**wanted: str) -> set[str]:
        return {entry.row.key for entry in list_entries(file, Filter(**wanted))}

    assert keys(kind="target") == {target_entry().key}
    assert keys(backend="gcc") == {NO_SUCH_BACKEND.key}
    assert keys(shape="3L-") == {OTHER_VERSIONS.key}
    assert keys(kind="burst", backend="onnxruntime", shape="2L-4H") == {OTHER_DEVICE.key}
    assert keys() == {entry.key for entry in ENTRIES}
    assert keys(shape="99L") == set()


def test_fields_for_a_program_to_read(file: DatabaseFile) -> None:
    (listed,) = list_entries(file, Filter(backend="gcc"))
    fields = listed.fields()
    assert fields["kind"] == "burst"
    assert fields["fits"] is False
    assert fields["versions"] == {"gcc": "1"}
    assert fields["versions_differ"] == "gcc 1"


@pytest.mark.parametrize(
    ("request_", "gone"),
    [
        (PruneRequest(everything=True), ENTRIES),
        (PruneRequest(other_devices=True), [OTHER_DEVICE, NO_SUCH_DEVICE]),
        (PruneRequest(other_versions=True), [OTHER_VERSIONS, NO_SUCH_BACKEND]),
        (
            PruneRequest(other_versions=True, other_devices=True),
            [OTHER_DEVICE, NO_SUCH_DEVICE, OTHER_VERSIONS, NO_SUCH_BACKEND],
        ),
        (PruneRequest(older_than_s=3600.0), [OTHER_DEVICE, OTHER_VERSIONS, target_entry(), acceptance_entry()]),
        (PruneRequest(older_than_s=1e9), []),
    ],
)
def test_pruning(file: DatabaseFile, request_: PruneRequest, gone: list[object]) -> None:
    keys = {entry.key for entry in gone}  # type: ignore[attr-defined]
    sizes = {row.key: row.bytes for row in file.rows()}
    expected = Pruned(len(keys), sum(sizes[key] for key in keys), len(ENTRIES) - len(keys))
    dry = PruneRequest(**{**vars(request_), "dry_run": True})
    assert prune(file, dry) == expected
    assert len(file.rows()) == len(ENTRIES)
    assert prune(file, request_) == expected
    assert {row.key for row in file.rows()} == sizes.keys() - keys


def test_pruning_by_age_counts_from_now(tmp_path: Path) -> None:
    file = DatabaseFile(tmp_path / "new.db")
    for days in (1, 10, 40):
        created = (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
        file.add([burst_entry(layers=days, created=created)], replace=True)
    assert prune(file, PruneRequest(older_than_s=30 * 86400.0)).removed == 1
    assert prune(file, PruneRequest(older_than_s=9 * 86400.0)).removed == 1
    assert prune(file, PruneRequest(older_than_s=0.0)).removed == 1


def test_a_request_to_prune_nothing_is_refused(file: DatabaseFile) -> None:
    with pytest.raises(BadRequest, match="say what to prune: --older-than"):
        prune(file, PruneRequest(dry_run=True))
    with pytest.raises(BadRequest, match="before the calendar begins"):
        prune(file, PruneRequest(older_than_s=1e12))
    assert len(file.rows()) == len(ENTRIES)


def test_pruning_what_is_not_there(tmp_path: Path) -> None:
    file = DatabaseFile(tmp_path / "missing.db")
    assert prune(file, PruneRequest(everything=True)) == Pruned(0, 0, 0)
    assert not file.path.exists()
    assert list_entries(file) == []


def test_every_kind_made_here_fits_here(tmp_path: Path) -> None:
    file = DatabaseFile(tmp_path / "new.db")
    file.add(all_kinds(), replace=True)
    assert all(entry.fits for entry in list_entries(file))
