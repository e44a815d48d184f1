"""Sections of `report.md` as HTML: the same words, in a page."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup

_NUMBER = re.compile(r"[+\-−]?\d[\d,.]*( ?(%|×|M|MiB|s))?( \([^)]*\))?")
"""With a unit and an interval, if it has them."""
_FIRST_BODY_ROW = 2


class _Renderer(RendererHTML):
    """Tables scroll by themselves where they are too wide, and can be reached with the keyboard to do so."""

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return '<div class="scroll" role="group" aria-label="table, may scroll sideways" tabindex="0"><table>'

    def table_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return "</table></div>\n"


_MARKDOWN = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table")


def as_html(blocks: Iterable[str]) -> Markup:
    """Markdown blocks as HTML; tags, links to scripts and the like in their words stay words."""
    tokens = _MARKDOWN.parse("\n\n".join(blocks))
    _align_numbers(tokens)
    html = _MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {})
    return Markup(html)  # its own markup only: raw HTML is escaped


def _align_numbers(tokens: Sequence[Token]) -> None:
    """Give cells of numbers their class, and the headings of columns that begin with one."""
    heads: list[Token] = []
    column, row = 0, 0
    for token, inside in pairwise(tokens):
        match token.type:
            case "thead_open":
                heads, row = [], 0
            case "th_open":
                heads.append(token)
            case "tr_open":
                column, row = 0, row + 1
            case "td_open":
                if _is_number(inside.content):
                    token.attrSet("class", "n")
                    if row == _FIRST_BODY_ROW and inside.content:
                        heads[column].attrSet("class", "n")
                column += 1


def without_heading(blocks: Iterable[str]) -> list[str]:
    """A section's blocks without its title, where the page has one of its own."""
    return [block for block in blocks if not block.startswith("## ")]


def _is_number(text: str) -> bool:
    return text in {"", "–"} or _NUMBER.fullmatch(text) is not None
