import json
import logging
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import BadRequest
from autotune.latency_file import read_target_latency
from autotune.results import Evidence

TABLE: dict[str, Any] = {"verify_s": {"1": 0.040, "2": 0.042, "3": 0.043}, "context_tokens": 1024, "device": "4x A100"}


def written(tmp_path: Path, content: object, name: str = "table.json") -> Path:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_table_is_the_users_own_measurement(tmp_path: Path) -> None:
    latency = read_target_latency(written(tmp_path, TABLE | {"overhead_s": 0.0003}), (0, 1, 2))
    assert [latency.verify.seconds(n) for n in (1, 2, 3)] == [0.040, 0.042, 0.043]
    assert latency.verify.evidence is Evidence.MEASURED
    assert (latency.verify.settings.context_tokens, latency.verify.device) == (1024, "4x A100")
    assert (latency.overhead_s, latency.plain_overhead_s) == (0.0003, 0.0)
    assert latency.verify.timed is None
    assert latency.source == "measured by the user: table.json (4x A100, 1024 tokens of context)"


def test_what_is_longer_than_needed_is_left_out(tmp_path: Path) -> None:
    assert read_target_latency(written(tmp_path, TABLE), (1,)).verify.largest == 2


def test_lengths_between_are_interpolated_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path, {"verify_s": {"1": 0.04, "3": 0.05, "9": 0.08}})
    with caplog.at_level(logging.WARNING):
        verify = read_target_latency(path, range(6)).verify
    assert [verify.seconds(n) for n in range(1, 7)] == pytest.approx([0.04, 0.045, 0.05, 0.055, 0.06, 0.065])
    assert verify.timed == (1, 3)
    assert "verify_s of 2, 4, 5, 6 is interpolated" in caplog.text


def test_samples_may_be_given(tmp_path: Path) -> None:
    path = written(tmp_path, {"verify_s": {"1": [0.04, 0.05, 0.041], "2": 0.042}})
    assert read_target_latency(path, (1,)).verify.seconds(1) == 0.041


def test_csv_lines_are_samples(tmp_path: Path) -> None:
    path = written(tmp_path, "n,verify_s\n1,0.04\n1,0.05\n1,0.041\n2,0.05\n", "table.csv")
    verify = read_target_latency(path, (1,)).verify
    assert verify.samples_s == ((0.04, 0.05, 0.041), (0.05,))


def test_more_positions_that_take_less_time_are_worth_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        read_target_latency(written(tmp_path, {"verify_s": {"1": 0.04, "2": 0.03}}), (1,))
    assert "2 only 0.03 s" in caplog.text
    caplog.clear()
    read_target_latency(written(tmp_path, {"verify_s": {"1": 0.04, "2": 0.039}}), (1,))
    assert not caplog.text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "not valid JSON"),
        ("[1]", "a JSON object is needed, not a list"),
        ({}, 'it needs "verify_s"'),
        ({"verify_s": [0.04]}, 'it needs "verify_s"'),
        (TABLE | {"latency": 3}, "unknown key 'latency'"),
        ({"verify_s": {"one": 0.04}}, "'one', which is no number of positions"),
        ({"verify_s": {"0": 0.04}}, "'0', which is no number of positions"),
        ({"verify_s": {"1": -0.04}}, r"verify_s\[1\] is -0.04, not a positive number"),
        ('{"verify_s": {"1": NaN}}', r"verify_s\[1\] is nan, not a positive number"),
        ({"verify_s": {"1": "0.04"}}, "not a positive number"),
        ({"verify_s": {"1": True}}, "not a positive number"),
        ({"verify_s": {"1": []}}, "is empty"),
        ({"verify_s": {"1": 41000.0}}, "seconds are needed, not milliseconds"),
        ({"verify_s": {"1": 0.04, "4": 0.05}}, "verify_s has no 5, which lookahead 4 needs"),
        ({"verify_s": {"2": 0.04, "9": 0.05}}, "verify_s has no 1, which a step of the target alone needs"),
        ({"verify_s": {"1": 0.04, "5": 0.05}, "context_tokens": 0}, "context_tokens is 0"),
        ({"verify_s": {"1": 0.04, "5": 0.05}, "overhead_s": -1}, "overhead_s is -1"),
        ({"verify_s": {"1": 0.04, "5": 0.05}, "device": 4}, "device is 4"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, content: object, problem: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(BadRequest, match=problem) as caught:
        read_target_latency(path, range(5))
    assert str(caught.value).startswith(f"--target-latency {path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "its first line must be n,verify_s"),
        ("k,seconds\n1,0.4\n", "its first line must be n,verify_s"),
        ("n,verify_s\n1,soon\n", "line 2: verify_s is no number"),
        ("n,verify_s\n1\n", "line 2 does not have 2 columns"),
        ("n,verify_s\n1,0.4,3\n", "line 2 does not have 2 columns"),
    ],
)
def test_what_is_wrong_with_csv_is_said_too(tmp_path: Path, content: str, problem: str) -> None:
    with pytest.raises(BadRequest, match=problem):
        read_target_latency(written(tmp_path, content, "table.csv"), (0,))


def test_a_file_must_be_there_and_be_text(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="does not exist"):
        read_target_latency(tmp_path / "none.json", (0,))
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadRequest, match="not UTF-8"):
        read_target_latency(tmp_path / "binary.json", (0,))
    with pytest.raises(BadRequest, match="directory"):
        read_target_latency(tmp_path, (0,))
