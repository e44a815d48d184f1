import json
from pathlib import Path

import pytest

from autotune.errors import BadRequest
from autotune.reports.experiment_page import cell_text, check_free, write_page
from autotune.reports.experiments import Chart, Experiment, ExperimentPage, Series, Table
from autotune.results import Evidence

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture
def page() -> ExperimentPage:
    chart = Chart("Speed", "k", "tokens/s", (Series("one", (1.0, 2.0), (3.0, 4.0), ((2.9, 3.1), (3.9, 4.2))),))
    table = Table(("draft", "step, ms"), (("wide", 1.25), (HOSTILE, None)), {"step, ms": ".1f"}, "Steps")
    experiment = Experiment(
        "a", "Latency", "It falls.", "second-hand", "It rises.", (Evidence.MEASURED,), (table,), (chart,), ("A note.",)
    )
    return ExperimentPage(
        "A page", HOSTILE, "abacus", {"Threads": "1"}, (experiment,), {"onnx": "1"}, "run", "now", 2.0
    )


def test_the_page_is_one_file_beside_its_text_and_numbers(page: ExperimentPage, tmp_path: Path) -> None:
    write_page(page, tmp_path / "paper")
    html = (tmp_path / "paper" / "index.html").read_text()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert html.count("<svg") == 1
    for word in ("It falls.", "second-hand", "It rises.", "measured", "1.2", "unknown", "A note.", "Steps"):
        assert word in html
    assert "http://" not in html.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    text = (tmp_path / "paper" / "paper.md").read_text()
    assert "| wide | 1.2 |" in text
    assert "![Speed](a-1.svg)" in text
    assert (tmp_path / "paper" / "a-1.svg").read_text().startswith("<svg")
    numbers = json.loads((tmp_path / "paper" / "paper.json").read_text())
    assert numbers["experiments"][0]["tables"][0]["rows"][0] == ["wide", 1.25]


def test_the_same_page_has_the_same_bytes(page: ExperimentPage, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_page(page, tmp_path / name)
    assert (tmp_path / "one" / "index.html").read_bytes() == (tmp_path / "two" / "index.html").read_bytes()


def test_only_a_folder_of_ours_is_replaced(page: ExperimentPage, tmp_path: Path) -> None:
    check_free(tmp_path / "new")
    check_free(tmp_path)  # empty
    write_page(page, tmp_path / "old")
    check_free(tmp_path / "old")
    with pytest.raises(BadRequest, match="not empty and holds no such page"):
        check_free(tmp_path)
    with pytest.raises(BadRequest, match="is a file"):
        check_free(tmp_path / "old" / "index.html")


def test_cells_are_printed_as_their_column_says() -> None:
    assert cell_text(0.126, "gain", {"gain": "+.1%"}) == "+12.6%"
    assert cell_text(3, "k", {}) == "3"
    assert cell_text("word", "k", {"k": ".2f"}) == "word"
    assert cell_text(None, "k", {"k": ".2f"}) == "unknown"
