"""A comparison as a file: one page that needs no network, or the picture of the fronts alone."""

import base64
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from autotune.errors import BadRequest
from autotune.reports.charts.compared import fronts_picture
from autotune.reports.charts.rendering import png_bytes, svg_text
from autotune.reports.compared import Comparison
from autotune.reports.facts import RunFacts
from autotune.reports.page.embedding import asset, content_hash

SUFFIXES = (".html", ".svg", ".png")


def check_name(path: Path) -> None:
    """BadRequest unless the file's name says what it is to be."""
    if path.suffix not in SUFFIXES:
        raise BadRequest(f"--out {path}: name a file that ends in {', '.join(SUFFIXES)}")


def write_comparison(comparison: Comparison, runs: Mapping[str, RunFacts], path: Path) -> None:
    """Write the file that `path` names, by its ending; BadRequest for another, or where it cannot be written."""
    check_name(path)
    picture = svg_text(fronts_picture(runs))
    if path.suffix == ".html":
        content = _page(comparison, picture).encode()
    else:
        content = picture.encode() if path.suffix == ".svg" else png_bytes(picture)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.tmp")
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        raise BadRequest(f"cannot write {path}: {error.strerror or error}") from None


def _page(comparison: Comparison, picture: str) -> str:
    environment = Environment(
        loader=PackageLoader("autotune.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = asset("report.css")
    return environment.get_template("compared.html").render(
        comparison=comparison,
        picture=base64.b64encode(picture.encode()).decode(),
        style=Markup(style),
        style_hash=content_hash(style),
    )
