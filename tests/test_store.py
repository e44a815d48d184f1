import json
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.errors import AutotuneError, BadRequest
from autotune.refinement import Refined
from autotune.results import Measured, Rejected, RejectReason, TrialRecord
from autotune.store import RunFolder
from tests.support.figures import (
    BUILD,
    acceptance_by_category,
    constant_acceptance,
    measured,
    record,
    screened,
    target_latency,
)

IDENTITY = {"target": "demo", "layers": "1:8", "seed": 0, "precision": ["fp32", "int8"], "max_memory": None}


@contextmanager
def opened(path: Path, *, resume: bool = False, **changes: object) -> Iterator[RunFolder]:
    with RunFolder.open(path, IDENTITY | changes, resume=resume) as folder:
        yield folder


def refuse(path: Path, message: str, *, resume: bool = False, **changes: object) -> None:
    before = listing(path)
    with pytest.raises(BadRequest, match=message) as caught, opened(path, resume=resume, **changes):
        pytest.fail("the folder was opened")
    assert "\n" not in str(caught.value)
    assert listing(path) == before


def listing(path: Path) -> dict[str, bytes]:
    return {str(each): each.read_bytes() for each in path.rglob("*") if each.is_file()}


@pytest.mark.parametrize("resume", [False, True])
def test_a_missing_or_empty_folder_is_claimed(tmp_path: Path, resume: bool) -> None:
    for path in (tmp_path / "deep" / "run", tmp_path / "empty"):
        if path.name == "empty":
            path.mkdir()
        with opened(path, resume=resume) as folder:
            assert folder.records() == []
        assert json.loads((path / "run.json").read_text()) == IDENTITY | {"schema_version": 1}


def test_records_from_before_there_were_categories_are_read(tmp_path: Path) -> None:
    written = record(0, replace(measured(0.5, 0.001), acceptance=acceptance_by_category(code=0.5, chat=0.2)))
    with opened(tmp_path) as folder:
        folder.append(written)
        assert folder.records() == [written]
        file = tmp_path / "trials.jsonl"
        fields = json.loads(file.read_text())
        assert fields["outcome"]["acceptance"].pop("categories") == ["code", "chat"]
        file.write_text(json.dumps(fields) + "\n")
        (old,) = folder.records()
    assert isinstance(old.outcome, Measured)
    assert old.outcome.acceptance == replace(acceptance_by_category(code=0.5, chat=0.2), categories=())


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    refuse(tmp_path, "is not empty and holds no run")
    refuse(tmp_path, "is not empty and holds no run", resume=True)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refuse(tmp_path / "file", "cannot write the output folder")
    refuse(tmp_path / "file" / "below", "cannot write the output folder")


def test_a_folder_that_cannot_be_made_is_refused() -> None:
    refuse(Path("/proc/autotune-run"), "cannot write the output folder /proc/autotune-run: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    refuse(tmp_path, "cannot write the output folder")


def test_a_run_is_only_continued_on_request(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    refuse(tmp_path, "holds a run already: add --resume")
    refuse(tmp_path, "holds a run already", seed=1)
    with opened(tmp_path, resume=True) as folder:
        assert folder.records() == []


def test_a_resumed_run_keeps_its_yardstick(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as folder:
        assert folder.read_latency() is None
        folder.write_latency(target_latency())
        folder.append(record(0, measured(0.5, 0.001)))
    with opened(tmp_path / "run", resume=True) as folder:
        assert folder.read_latency() == target_latency()
        (tmp_path / "run" / "target.json").write_text("{")
        with pytest.raises(BadRequest, match="is damaged"):
            folder.read_latency()


def test_a_different_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    refuse(tmp_path, r"differs in: layers, seed\)", resume=True, layers="1:4", seed=1)
    refuse(tmp_path, r"differs in: device\)", resume=True, device="cpu")


def test_a_run_of_another_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(IDENTITY | {"schema_version": 2}))
    refuse(tmp_path, "schema 2; this one reads schema 1", resume=True)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b""])
def test_a_damaged_run_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    refuse(tmp_path, r"run\.json", resume=True)


def test_a_claim_cut_short_by_a_kill_can_be_made_again(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / "run.tmp").write_text("{")
    with opened(tmp_path) as folder:
        folder.append(record(0, measured(0.5, 0.001)))
    with opened(tmp_path, resume=True) as folder:
        assert len(folder.records()) == 1


def test_a_new_run_that_is_refused_leaves_the_folder_free(tmp_path: Path) -> None:
    def refused() -> None:
        with opened(tmp_path / "run") as folder:
            folder.work.mkdir()
            (folder.work / "scratch").touch()
            folder.study_file.touch()
            folder.write_latency(target_latency())
            raise BadRequest("the source holds NaN")

    with pytest.raises(BadRequest, match="the source holds NaN"):
        refused()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    with opened(tmp_path / "run", seed=1):
        pass


@pytest.mark.parametrize("error", [AutotuneError("the target hangs"), KeyboardInterrupt(), ValueError("a bug")])
def test_a_run_that_fails_otherwise_can_be_resumed(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), opened(tmp_path):
        raise error
    with opened(tmp_path, resume=True):
        pass


def test_a_refusal_never_costs_what_was_found(tmp_path: Path) -> None:
    def refused(*, resume: bool) -> None:
        with opened(tmp_path, resume=resume) as folder:
            folder.append(record(0, measured(0.5, 0.001)))
            raise BadRequest("too late")

    for resume in (False, True):
        with pytest.raises(BadRequest, match="too late"):
            refused(resume=resume)
    with opened(tmp_path, resume=True) as folder:
        assert len(folder.records()) == 2


def try_to_open(path: Path, answers: "multiprocessing.Queue[str]") -> None:
    try:
        with opened(path, resume=True):
            answers.put("opened")
    except BadRequest as error:
        answers.put(str(error))


def test_a_second_process_is_locked_out(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    with opened(tmp_path):
        process = fork.Process(target=try_to_open, args=(tmp_path, answers))
        process.start()
        process.join()
        assert "is in use by another autotune process" in answers.get()
        refuse(tmp_path, "is in use by another autotune process", resume=True)
    process = fork.Process(target=try_to_open, args=(tmp_path, answers))
    process.start()
    process.join()
    assert answers.get() == "opened"


REJECTED = Rejected(RejectReason.BUILD_ERROR, "no such\noperator [/b]", "Traceback …\r\n\x85 \u2028 boom\n")


def test_records_come_back_as_they_went(tmp_path: Path) -> None:
    records = [record(0, measured(0.8, 0.001)), record(1, REJECTED), record(2, measured(0.1, 1e-7))]
    records.append(record(3, screened()))
    with opened(tmp_path) as folder:
        for each in records:
            folder.append(each)
        assert folder.records() == records
    with opened(tmp_path, resume=True) as folder:
        assert folder.records() == records
    assert (tmp_path / "trials.jsonl").read_bytes().count(b"\n") == 4
    assert [each.state for each in records] == ["measured", "rejected", "measured", "screened"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.dictionaries(st.sampled_from(["ffn", "heads"]), st.integers(-5, 10**9) | st.sampled_from(["8", "8/2", "1"])),
)
def test_any_value_survives(tmp_path: Path, number: float, text: str, params: dict[str, int | str]) -> None:
    records = [
        TrialRecord(0, BUILD, 1, number, Rejected(RejectReason.CRASHED, text, text), params),
        TrialRecord(1, BUILD, 1, number, measured(0.5, 0.001), params),
    ]
    folder = RunFolder(tmp_path)
    (tmp_path / "trials.jsonl").unlink(missing_ok=True)
    for each in records:
        folder.append(each)
    assert folder.records() == records


@pytest.mark.parametrize("cut", [1, 2, 40, -1])
def test_a_last_line_cut_by_a_kill_is_left_out_and_dropped_when_the_run_goes_on(tmp_path: Path, cut: int) -> None:
    with opened(tmp_path) as folder:
        folder.append(record(0, measured(0.8, 0.001)))
        whole = (tmp_path / "trials.jsonl").read_bytes()
        folder.append(record(1, REJECTED))
    torn = whole + (tmp_path / "trials.jsonl").read_bytes()[len(whole) :][:cut]
    (tmp_path / "trials.jsonl").write_bytes(torn)
    (tmp_path / "refined.jsonl").write_bytes(b'{"build": "c", "tra')
    assert [each.number for each in RunFolder.existing(tmp_path).records()] == [0]
    assert (tmp_path / "trials.jsonl").read_bytes() == torn  # who only reads changes nothing
    with opened(tmp_path, resume=True) as folder:
        assert (tmp_path / "trials.jsonl").read_bytes() == whole
        assert (tmp_path / "refined.jsonl").read_bytes() == b""
        folder.append(record(1, REJECTED))
        assert [each.number for each in folder.records()] == [0, 1]


def test_a_first_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "trials.jsonl").write_bytes(b'{"number": 0, "bu')
    assert RunFolder(tmp_path).records() == []


def test_a_folder_is_in_use_while_a_run_has_it_open(tmp_path: Path) -> None:
    with opened(tmp_path):
        assert RunFolder.existing(tmp_path).in_use
    assert not RunFolder.existing(tmp_path).in_use


def test_only_a_run_can_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BadRequest, match=r"holds no run: give the --out folder"):
            RunFolder.existing(path)
    (tmp_path / "run.json").write_text('{"schema_version": 0}')
    with pytest.raises(BadRequest, match=r"schema 0; this one reads schema 1"):
        RunFolder.existing(tmp_path)


@pytest.mark.parametrize("line", [b"{}\n", b"\n", b'{"number": 0}\n', b"\xff\n"])
def test_damage_elsewhere_is_refused_and_kept(tmp_path: Path, line: bytes) -> None:
    folder = RunFolder(tmp_path)
    folder.append(record(0, REJECTED))
    damaged = line + (tmp_path / "trials.jsonl").read_bytes()
    (tmp_path / "trials.jsonl").write_bytes(damaged)
    with pytest.raises(BadRequest, match=r"trials\.jsonl is damaged") as caught:
        folder.records()
    assert "\n" not in str(caught.value)
    assert (tmp_path / "trials.jsonl").read_bytes() == damaged


def test_a_record_is_on_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []

    def sync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", sync)
    RunFolder(tmp_path).append(record(0, REJECTED))
    assert synced == [(tmp_path / "trials.jsonl").stat().st_size]


def test_what_was_refined_is_read_as_it_was_written_without_a_cut_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.refined() == []
    acceptance = replace(constant_acceptance(1 / 3), categories=("code", "chat"))
    entries = [Refined("a", 2, acceptance), Refined("b", 2, REJECTED)]
    for entry in entries:
        folder.append_refined(entry)
    whole = (tmp_path / "refined.jsonl").read_bytes()
    (tmp_path / "refined.jsonl").write_bytes(whole + b'{"build": "c", "tra')
    assert folder.refined() == entries
    (tmp_path / "refined.jsonl").write_bytes(b"{}\n" + whole)
    with pytest.raises(BadRequest, match=r"refined\.jsonl is damaged"):
        folder.refined()
