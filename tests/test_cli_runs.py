"""`report`, `explain`, `compare` and `watch`, through the real command line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autotune.cli import app
from autotune.errors import BadRequest
from autotune.reports.facts import RunFacts
from tests.support.facts import synthetic_facts
from tests.support.saved_runs import save_run

RUNNER = CliRunner()


def facts() -> RunFacts:
    return replace(synthetic_facts(), context_tokens=256, planned_trials=40)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save_run(tmp_path / "run", facts())


def output(*words: object) -> str:
    done = RUNNER.invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def refusal(*words: object) -> str:
    done = RUNNER.invoke(app, [str(word) for word in words])
    assert isinstance(done.exception, BadRequest)
    assert "\n" not in str(done.exception)
    return str(done.exception)


def test_a_report_is_written_anew(run: Path) -> None:
    assert output("report", run).splitlines()[-1] == f"report: {run / 'report'}"
    before = (run / "report" / "summary.json").read_bytes()
    (run / "report" / "summary.json").write_bytes(before + b" ")
    output("report", run)
    assert (run / "report" / "summary.json").read_bytes() == before
    assert json.loads(before)["trials"] == 40


def test_under_limits_the_runs_own_report_stays(run: Path) -> None:
    output("report", run)
    own = (run / "report" / "summary.json").read_bytes()
    told = output("report", run, "--max-parameters", "0.6M", "--lookahead", "1:4", "--max-latency", "2ms")
    assert told.splitlines()[-1] == f"report: {run / 'reselected'}"
    assert (run / "report" / "summary.json").read_bytes() == own
    summary = json.loads((run / "reselected" / "summary.json").read_text())
    assert all(point["parameters"] <= 600_000 and point["lookahead"] <= 4 for point in summary["front"])
    assert summary["front"]
    told = "at most 600 k parameters, rounds of at most 2 ms, k of 1, 2, 3, 4"
    assert f"Chosen again from a finished run, with {told};" in summary["banner"][0]


def test_json_alone_writes_nothing(run: Path, tmp_path: Path) -> None:
    summary = json.loads(output("report", run, "--json", "--max-memory", "900KB"))
    assert summary["schema_version"] == 1
    assert not (run / "report").exists()
    assert not (run / "reselected").exists()
    assert json.loads(output("report", run, "--json", "--out", tmp_path / "elsewhere"))
    assert (tmp_path / "elsewhere" / "report.md").is_file()


def test_a_run_whose_folder_cannot_be_written_is_reported_elsewhere(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(run / "report"))

    with monkeypatch.context() as patch:
        patch.setattr("autotune.reports.report.write_report", refuse)
        assert "cannot write" in refusal("report", run)
        assert "choose another --out" in refusal("report", run)
    output("report", run, "--out", tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "summary.json").is_file()


def test_nothing_but_a_report_is_replaced(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    assert "is no report" in refusal("report", run, "--out", tmp_path / "mine")
    assert "is no report" in refusal("report", run, "--out", tmp_path / "file")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--max-memory", "much"), "'much' is not a size"),
        (("--max-parameters", "2.5"), "'2.5' is not a count"),
        (("--max-latency", "soon"), "'soon' is not a duration"),
        (("--max-latency", "nan"), "must be finite"),
        (("--lookahead", "5:2"), "the range is empty"),
    ],
)
def test_limits_that_make_no_sense_are_refused(run: Path, words: tuple[str, str], why: str) -> None:
    done = RUNNER.invoke(app, ["report", str(run), *words])
    assert done.exit_code != 0
    assert why in f"{done.exception}{done.stderr}"
    assert not (run / "reselected").exists()


def test_a_run_explains_itself(run: Path) -> None:
    paragraphs = output("explain", run).split("\n\n")
    assert paragraphs[0].startswith("Draft ")
    assert any("breaks even at" in each for each in paragraphs)
    statements = json.loads(output("explain", run, "--json"))
    assert [each["text"] for each in statements] == [each.strip() for each in paragraphs]


def test_runs_are_compared(run: Path, tmp_path: Path) -> None:
    slower = replace(facts(), device="cpu:Another CPU")
    other = save_run(tmp_path / "other", slower)
    told = output("compare", run, other)
    assert "Against run:" in told
    assert "within noise" in told
    assert "other and run have different devices" in told
    content = json.loads(output("compare", run, other, "--json"))
    assert [row["name"] for row in content["runs"]] == ["run", "other"]
    assert {each["run"] for each in content["differences"]} == {"other"}


def test_runs_of_the_same_name_are_told_by_their_paths(run: Path, tmp_path: Path) -> None:
    other = save_run(tmp_path / "deep" / "run", facts())
    content = json.loads(output("compare", run, other, "--json"))
    assert [row["name"] for row in content["runs"]] == [str(run), str(other)]
    assert "the same run twice" in refusal("compare", run, run)
    assert "two runs or more" in refusal("compare", run)


def test_fronts_are_drawn_over_each_other(run: Path, tmp_path: Path) -> None:
    other = save_run(tmp_path / "<b>other", facts())
    for ending in ("html", "svg", "png"):
        output("compare", run, other, "--out", tmp_path / "deep" / f"fronts.{ending}")
    page = (tmp_path / "deep" / "fronts.html").read_text()
    assert "&lt;b&gt;other" in page
    assert "<b>" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "Pareto fronts" in (tmp_path / "deep" / "fronts.svg").read_text()
    assert (tmp_path / "deep" / "fronts.png").read_bytes().startswith(b"\x89PNG")
    assert {each.name for each in (tmp_path / "deep").iterdir()} == {"fronts.html", "fronts.svg", "fronts.png"}


def test_a_comparison_of_another_kind_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    told = refusal("compare", tmp_path / "no", tmp_path / "run", "--out", tmp_path / "fronts.pdf")
    assert "ends in .html, .svg, .png" in told


def test_where_a_run_stands_is_told(run: Path) -> None:
    assert "40/40 builds" in output("watch", run)
    assert "40/40 builds" in output("watch", run, "--once")
    assert json.loads(output("watch", run, "--json"))["evaluated"] == 40
    assert "--every 0" in refusal("watch", run, "--every", "0s")


@pytest.mark.parametrize("command", ["report", "explain", "watch"])
def test_what_is_no_run_is_refused(tmp_path: Path, command: str) -> None:
    assert "holds no run" in refusal(command, tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
