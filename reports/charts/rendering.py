"""Vega-Lite as static pictures, and the scripts that draw it in a page (the only user of vl-convert)."""

from importlib.metadata import version
from pathlib import Path

import vl_convert

from autotune.cache import cached_folder, content_key
from autotune.errors import BadRequest
from autotune.reports.charts.theme import LIGHT, Spec

_BUNDLE_FILE = "vega.js"
_SNIPPET = "window.vegaEmbed = vegaEmbed;"
PICTURE_SCALE = 2.0
"""Pixels of a PNG per unit of the SVG."""


def svg_text(spec: Spec) -> str:
    """The chart as an SVG file on white; the same chart gives the same text."""
    on_paper = {**spec, "background": LIGHT["surface"]}
    return str(vl_convert.vegalite_to_svg(on_paper))


def png_bytes(svg: str) -> bytes:
    """An SVG as PNG."""
    return bytes(vl_convert.svg_to_png(svg, scale=PICTURE_SCALE))


def chart_script() -> str:
    """JavaScript that defines `vegaEmbed`: Vega, Vega-Lite and Vega-Embed, without any request to a network.

    Putting it together takes seconds, so it is kept in the cache; where that cannot be written, it is made anew.
    """

    def make(folder: Path) -> None:
        (folder / _BUNDLE_FILE).write_text(_bundle(), encoding="utf-8")

    try:
        folder = cached_folder("charts", content_key(version("vl-convert-python"), _SNIPPET), make)
        return (folder / _BUNDLE_FILE).read_text(encoding="utf-8")
    except (BadRequest, OSError):
        return _bundle()


def _bundle() -> str:
    text = str(vl_convert.javascript_bundle(_SNIPPET))
    # Inside a script element only these could be taken for markup.
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")
