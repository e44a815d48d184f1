"""`autotune traces`: through the command line, in this process."""

from pathlib import Path

import pytest

from tests.support.command_line import Autotune, Exit, error_line


def error_line_after_phase(done: Exit) -> str:
    lines = [line for line in done.err.splitlines() if not line.endswith("…")]
    return error_line(done._replace(err="\n".join(lines)))


def test_traces_of_what_is_not_there(autotune: Autotune, tmp_path: Path) -> None:
    out = tmp_path / "t.safetensors"
    assert "unknown target" in error_line_after_phase(autotune("traces", "--out", out, "--target", "nowhere"))
    assert "does not exist" in error_line_after_phase(autotune("traces", "--out", out, "--prompts", tmp_path / "p"))
    assert "temperature" in error_line_after_phase(autotune("traces", "--out", out, "--temperature", "-1"))
    assert not list(tmp_path.iterdir())


def test_traces_that_could_not_be_written_are_not_recorded(autotune: Autotune, tmp_path: Path) -> None:
    for out in (Path("/proc/traces.safetensors"), tmp_path):
        done = autotune("traces", "--out", out)
        assert f"cannot write {out}: " in error_line_after_phase(done)
        assert "%" not in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "m"), "--model and --api-key are those of an --endpoint"),
        (("--endpoint", "http://h/v1", "--with", "transformers"), "--endpoint and --with exclude each other"),
        (("--endpoint", "nonsense"), "'nonsense' is not an endpoint: give the base URL"),
        (("--endpoint", "http://me:pass@h/v1"), "must hold no credentials"),
        (("--with", "vllm"), "--with vllm: give one of autotune, transformers"),
    ],
)
def test_bad_ways_to_record_traces(autotune: Autotune, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    out = tmp_path / "traces.safetensors"
    assert message in error_line(autotune("traces", "--out", out, *words))
    assert not out.exists()
