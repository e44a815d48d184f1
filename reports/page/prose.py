"""Sections of `report.md` as HTML: the same words, in a page."""

import re
from collections.abc import Iterable, Sequence

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup

_NUMBER = re.compile(r"[+\-−]?\d[\d,.]*( ?(%|×|M|MiB|s))?( \([^)]*\))?")
"""With a unit and an interval, if it has them."""


class _Renderer(RendererHTML):
    """Tables scroll by themselves where they are too wide, and can be reached with the keyboard to do so."""

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return '<div class="scroll" role="group" aria-label="table, may scroll sideways" tabindex="0"><table>'

    def table_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return "</table></div>\n"

    def td_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return '<td class="n">' if _is_number(tokens[idx + 1].content) else "<td>"


_MARKDOWN = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table")


def as_html(blocks: Iterable[str]) -> Markup:
    """Markdown blocks as HTML; tags, links to scripts and the like in their words stay words."""
    return Markup(_MARKDOWN.render("\n\n".join(blocks)))


def without_heading(blocks: Iterable[str]) -> list[str]:
    """A section's blocks without its title, where the page has one of its own."""
    return [block for block in blocks if not block.startswith("## ")]


def _is_number(text: str) -> bool:
    return text in {"", "–"} or _NUMBER.fullmatch(text) is not None
