"""Writes a page of experiments: `index.html` (one file, no network), `paper.md` with its charts, and `paper.json`."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from autotune.cache import new_folder
from autotune.errors import BadRequest
from autotune.reports.experiment_figures import chart_svg
from autotune.reports.experiments import Cell, Experiment, ExperimentPage

HTML_FILE, MARKDOWN_FILE, JSON_FILE = "index.html", "paper.md", "paper.json"
UNKNOWN = "unknown"


def write_page(page: ExperimentPage, folder: Path) -> None:
    """Write the page; `folder` is replaced as a whole, once everything in it is complete."""
    environment = Environment(
        loader=PackageLoader("autotune.reports"),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": cell_text, "joined": ", ".join}
    charts = {
        chart_file(experiment, place): chart_svg(chart)
        for experiment in page.experiments
        for place, chart in enumerate(experiment.charts)
    }
    content = {"page": page, "charts": charts, "chart_file": chart_file}
    with new_folder(folder) as beside:
        for name, text in charts.items():
            (beside / name).write_text(text, encoding="utf-8")
        for name in (HTML_FILE, MARKDOWN_FILE):
            text = environment.get_template(f"paper.{name.partition('.')[2]}").render(content)
            (beside / name).write_text(text, encoding="utf-8")
        (beside / JSON_FILE).write_text(json.dumps(asdict(page), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def check_free(folder: Path) -> None:
    """BadRequest unless a page may be written there: the folder is new, empty, or holds an earlier page."""
    if folder.exists() and not folder.is_dir():
        raise BadRequest(f"{folder} is a file: choose another --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / JSON_FILE).is_file():
        raise BadRequest(f"{folder} is not empty and holds no such page: choose another --out")


def chart_file(experiment: Experiment, place: int) -> str:
    """The file name of an experiment's chart."""
    return f"{experiment.key}-{place + 1}.svg"


def cell_text(value: Cell, column: str, formats: Mapping[str, str]) -> str:
    """A cell as text; numbers as their column says, and what is not known as `unknown`."""
    if value is None:
        return UNKNOWN
    if isinstance(value, str) or column not in formats:
        return str(value)
    return format(value, formats[column])
