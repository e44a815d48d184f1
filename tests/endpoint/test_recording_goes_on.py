"""Recordings that servers, disks and chance disturb."""

import errno
import io
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import BadRequest
from autotune.targets import Target
from tests.support.fake_endpoint import Fault, Script, serving
from tests.support.recordings import PLAIN, QUICK, prompts, recorded


def test_a_full_disk_while_recording_is_one_clear_line(
    target: Target, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk(io.FileIO):
        written = 0

        def write(self, data: Any) -> int:
            FullDisk.written += 1
            if FullDisk.written > 5:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data[: len(data) // 2] if FullDisk.written in {3, 5} else data)

    with serving(target) as server:
        with monkeypatch.context() as patch:
            opened = Path.open
            patch.setattr(
                Path,
                "open",
                lambda path, *how, **named: (
                    FullDisk(path, "a") if path.suffix == ".jsonl" else opened(path, *how, **named)
                ),
            )
            with pytest.raises(BadRequest, match=r"cannot write .*\.jsonl: No space left on device$") as error:
                recorded(server, target, concurrency=1, alternatives=True)
        assert "\n" not in str(error.value)
        (journal,) = fresh_cache.rglob("*.jsonl")
        lines = journal.read_bytes().splitlines(keepends=True)
        assert len(lines) == 3, "two writes, one in two halves, and nothing of the one cut short"
        assert all(json.loads(line) and line.endswith(b"\n") for line in lines)
        assert len(recorded(server, target, alternatives=True).items) == 12


def test_results_do_not_depend_on_who_finishes_first(target: Target, tmp_path: Path) -> None:
    def wait(count: int, body: dict[str, Any]) -> None:
        time.sleep(0.05 if count % 4 == 1 else 0.0)

    runs = []
    for concurrency in (1, 8):
        with serving(target, Script(fault=wait)) as server:  # another port is another endpoint: nothing is known
            runs.append(recorded(server, target, PLAIN, concurrency=concurrency))
    assert [t.tokens.tolist() for t in runs[0].items] == [t.tokens.tolist() for t in runs[1].items]


def test_nothing_is_asked_twice(target: Target) -> None:
    with serving(target) as server:
        first = recorded(server, target)
        asked = len(server.bodies)
        again = recorded(server, target)
        assert len(server.bodies) == asked == 12
        longer = recorded(server, target, prompts=prompts(target, 14))
        assert len(server.bodies) == 14
    assert [t.tokens.tolist() for t in first.items] == [t.tokens.tolist() for t in again.items]
    assert [t.tokens.tolist() for t in longer.items[:12]] == [t.tokens.tolist() for t in first.items]


def test_a_recording_whose_server_dies_goes_on_where_it_stopped(target: Target, fresh_cache: Path) -> None:
    script = Script(fault=lambda count, body: Fault(drop=True) if count > 5 else None)
    with serving(target, script) as server:
        with pytest.raises(BadRequest, match=r"broke .*; 5 of 12 traces are kept, and the same command goes on"):
            recorded(server, target, concurrency=1)
        (journal,) = fresh_cache.rglob("*.jsonl")
        with journal.open("a") as file:
            file.write('{"key": "cut sho')  # as a killed process leaves it
        script.fault = lambda count, body: None
        server.bodies.clear()
        whole = recorded(server, target)
        assert len(server.bodies) == 7
    assert len(whole.items) == 12
    assert all(json.loads(line) for line in journal.read_text().splitlines())


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_faults_are_sat_out(target: Target, status: int) -> None:
    def fault(count: int, body: dict[str, Any]) -> Fault | None:
        return Fault(status, headers={"Retry-After": "0.01"}) if count % 3 else None

    with serving(target, Script(fault=fault)) as server:
        assert len(recorded(server, target, prompts=prompts(target, 3), concurrency=1).items) == 3
        assert len(server.bodies) == 9


def test_what_is_asked_for_is_waited(target: Target) -> None:
    def fault(count: int, body: dict[str, Any]) -> Fault | None:
        return Fault(429, headers={"Retry-After": "0.3"}) if count == 1 else None

    with serving(target, Script(fault=fault)) as server:
        began_s = time.monotonic()
        recorded(server, target, prompts=prompts(target, 1), patience=replace(QUICK, longest_wait_s=5.0))
        assert time.monotonic() - began_s >= 0.3
