from pathlib import Path

import pytest

from autotune.candidate import Precision
from autotune.compile.sandbox import Limits
from autotune.errors import BadRequest
from autotune.paper.reproduce import PaperSettings, reproduce
from autotune.paper.timing import Timing
from autotune.progress import LoggingObserver
from autotune.reports.experiments import Experiment
from autotune.results import MeasureSettings, Rejected, RejectReason

TIMING = Timing(
    "cpu", "onnxruntime", Precision.INT8, MeasureSettings(context_tokens=16, threads=1), Limits(time_s=10.0)
)


def test_a_page_without_measurements_leaves_nothing_but_itself(tmp_path: Path) -> None:
    page = reproduce(PaperSettings(TIMING, tmp_path / "page", ("c",)), LoggingObserver())
    assert [experiment.key for experiment in page.experiments] == ["c"]
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


def test_a_link_leads_to_the_folder_that_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "link").symlink_to("page")
    for _ in range(2):
        reproduce(PaperSettings(TIMING, tmp_path / "link", ("c",)), LoggingObserver())
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "page" / "index.html").is_file()


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadRequest, match="not empty"):
        reproduce(PaperSettings(TIMING, tmp_path, ("c",)), LoggingObserver())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_table_that_is_too_short_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.paper.reproduce.time_steps", lambda *_: pytest.fail("measured"))
    table = tmp_path / "table.json"
    table.write_text('{"verify_s": {"1": 0.05, "5": 0.06}}')
    with pytest.raises(BadRequest, match="verify_s has no 9, which lookahead 8 needs"):
        reproduce(PaperSettings(TIMING, tmp_path / "page", ("b", "d"), target_latency=table), LoggingObserver())
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def test_shapes_that_all_fail_make_a_page_of_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Rejected(RejectReason.OUT_OF_MEMORY, "too | large\nfor this machine")
    monkeypatch.setattr("autotune.paper.reproduce.time_steps", lambda shapes, *_: dict.fromkeys(shapes, failed))
    monkeypatch.setattr("autotune.paper.reproduce.extrapolate_target", lambda *_, **__: failed)
    page = reproduce(PaperSettings(TIMING, tmp_path / "page", ("a", "b", "d", "e")), LoggingObserver())

    def found(key: str) -> Experiment:
        return next(experiment for experiment in page.experiments if experiment.key == key)

    assert found("a").finding == "No shape could be measured."
    assert found("a").evidence == found("b").evidence == ()
    assert "LLaMA-65B could not be measured here (out-of-memory" in found("d").finding
    text = (tmp_path / "page" / "paper.md").read_text()
    assert "| 8 layers |" in text
    assert "too \\| large for this machine |" in text
    assert "[]" not in text
