"""`--json`: one document on stdout and nothing else there, of every command that reads."""

import json
from pathlib import Path
from typing import Any

import pytest

from autotune import bench, run
from tests.support.command_line import Autotune, Exit


def document(done: Exit, code: int = 0) -> Any:
    """The one document on stdout."""
    assert done.code == code, done
    assert done.out.endswith("\n")
    return json.loads(done.out)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["doctor"], "backends"),
        (["targets"], "models"),
        (["targets", "show", "demo"], "parameters"),
        (["targets", "show", "noft-1.3b"], "shape"),
        (["db", "prune", "--all", "--dry-run"], "removed"),
    ],
)
def test_commands_that_read(autotune: Autotune, words: list[str], key: str) -> None:
    assert key in document(autotune(*words, "--json"))


def test_an_empty_list_is_one_too(autotune: Autotune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path))
    assert document(autotune("db", "list", "--json")) == []


@pytest.mark.parametrize(("mismatches", "code"), [(0, 0), (1, 2)])
def test_verify(autotune: Autotune, monkeypatch: pytest.MonkeyPatch, mismatches: int, code: int) -> None:
    monkeypatch.setattr(bench, "check_lossless", lambda _: (16, 2, mismatches))
    assert document(autotune("verify", "some/artifact", "--json"), code) == {
        "artifact": "some/artifact",
        "files_intact": True,
        "compared": 16,
        "identical": 14 - mismatches,
        "near_ties": 2,
        "mismatches": mismatches,
    }
    plain = autotune("verify", "some/artifact")
    assert plain.code == code
    assert f"of 16 greedy outputs: {14 - mismatches} identical, 2 differ at a near-tie" in plain.out


@pytest.mark.parametrize(("feasible", "code"), [(True, 0), (False, 3)])
def test_run(autotune: Autotune, monkeypatch: pytest.MonkeyPatch, feasible: bool, code: int) -> None:
    class Summary:
        def to_json(self) -> str:
            return '{"verdict": "speculate"}\n'

    def tune(*_: object) -> run.TuneResult:
        artifact = Path("r/artifact") if feasible else None
        return run.TuneResult(Summary(), Path("r"), Path("r/report"), artifact, feasible)

    monkeypatch.setattr(run, "tune", tune)
    assert document(autotune("run", "--json"), code) == {
        "folder": "r",
        "report": "r/report",
        "artifact": "r/artifact" if feasible else None,
        "feasible": feasible,
        "summary": {"verdict": "speculate"},
    }


def test_traces(autotune: Autotune, tmp_path: Path) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("def one():\ndef two():\ndef three():\n")
    out = tmp_path / "t.safetensors"
    done = autotune("traces", "--prompts", prompts, "--max-new-tokens", 4, "--out", out, "--json")
    recorded = document(done)
    assert (recorded["out"], recorded["traces"]) == (str(out), 3)
    assert 0 < recorded["tokens"] <= 12
    assert 0 <= recorded["looping_share"] <= 1


def test_nothing_is_printed_where_it_fails(autotune: Autotune, tmp_path: Path) -> None:
    for words in (["verify", tmp_path], ["targets", "show", "nowhere"], ["traces", "--with", "x", "--out", "t"]):
        done = autotune(*words, "--json")
        assert (done.code, done.out) == (2, "")
        assert "error: " in done.err
