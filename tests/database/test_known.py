"""The database as a run sees it: what is known is not found out again, and trouble is said once."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.database.entries import KnownBurst, now
from autotune.database.file import DatabaseFile
from autotune.database.known import Known, TuningDatabase
from autotune.results import Acceptance, Built, Rejected, RejectReason
from tests.support.entries import acceptance_entry, burst_entry, burst_subject, table_of


@pytest.fixture
def file(tmp_path: Path) -> DatabaseFile:
    return DatabaseFile(tmp_path / "tuning.db")


def fail() -> KnownBurst:
    raise AssertionError("it was known")


def result(step_s: float = 0.001) -> KnownBurst:
    return KnownBurst(Built("", 0.5, 1000), table_of(burst_subject().device, step_s))


def test_what_is_known_is_not_found_out_again(file: DatabaseFile) -> None:
    before = now()
    first = TuningDatabase(file).recall(burst_subject(), KnownBurst, result)
    again = TuningDatabase(file).recall(burst_subject(), KnownBurst, fail)
    assert first == Known(result(), None)
    assert isinstance(again, Known)
    assert again.value == result()
    assert before <= str(again.date) <= now()


def test_other_subjects_are_not_known(file: DatabaseFile) -> None:
    database = TuningDatabase(file)
    database.keep(burst_subject(), result())
    others = [
        burst_subject(device="cpu:another"),
        burst_subject(versions={**burst_subject().versions, "numpy": "1.0"}),
        burst_subject(backend="tvm"),
        burst_subject(measuring=replace(burst_subject().measuring, threads=2)),
    ]
    assert [database.find(subject, KnownBurst) for subject in others] == [None] * 4


def test_failures_are_not_kept(file: DatabaseFile) -> None:
    database = TuningDatabase(file)
    failure = Rejected(RejectReason.BUILD_TIMEOUT, "killed after 3 s")
    assert database.recall(burst_subject(), KnownBurst, lambda: failure) is failure
    assert not file.path.exists()
    assert database.recall(burst_subject(), KnownBurst, result) == Known(result(), None)


def test_a_file_that_cannot_be_used_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tuning.db").mkdir()
    database = TuningDatabase(DatabaseFile(tmp_path / "tuning.db"))
    with caplog.at_level(logging.WARNING):
        for step_s in (0.1, 0.2):
            assert database.recall(burst_subject(), KnownBurst, lambda s=step_s: result(s)) == Known(  # type: ignore[misc]
                result(step_s), None
            )
    (message,) = caplog.messages
    assert "the run goes on without it" in message


def test_a_file_that_cannot_be_written_is_still_read(
    file: DatabaseFile, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autotune.errors import BadRequest

    file.add([burst_entry(), acceptance_entry()], replace=True)

    def full(*_: object, **__: object) -> int:
        raise BadRequest("cannot use the tuning database: database or disk is full")

    monkeypatch.setattr(file, "add", full)
    database = TuningDatabase(file)
    with caplog.at_level(logging.WARNING):
        for layers in (5, 6):
            assert database.recall(burst_subject(layers), KnownBurst, result) == Known(result(), None)
    (message,) = caplog.messages
    assert "is full; the run goes on without storing what it measures" in message
    known = database.find(acceptance_entry().subject, Acceptance)
    assert known is not None
    assert known.value == acceptance_entry().value
