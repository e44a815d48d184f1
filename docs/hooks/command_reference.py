"""The reference of all commands, taken from the command line itself while the site is built: it cannot drift."""

from collections.abc import Iterator
from typing import Any

import typer

PAGE = "commands.md"
PLACE = "<!-- every command -->"
"""What the reference stands in for on its page."""
_ARGUMENTS, _FIRST_PANEL = "Arguments", "Options"
"""What options and arguments are grouped under where the command does not say."""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page's text, with the reference in its place on the page of commands (an event of mkdocs)."""
    if page.file.src_uri != PAGE:
        return markdown
    if PLACE not in markdown:
        raise ValueError(f"{PAGE} does not say where the commands belong: {PLACE}")
    return markdown.replace(PLACE, reference())


def reference() -> str:
    """All commands of `autotune` as Markdown: what each does, its arguments, and its options by group."""
    from autotune.cli import app

    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="autotune")
    return "\n".join(_describe(command, context, "autotune", depth=2))


def _describe(command: Any, context: Any, name: str, depth: int) -> Iterator[str]:
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    yield from ("#" * depth + f" {name}", "", *_paragraphs(command.help), "```text", usage, "```", "")
    for title, rows in _panels(command, context).items():
        if title not in (_ARGUMENTS, _FIRST_PANEL):
            yield from (f"**{title}**", "")
        what = "argument" if title == _ARGUMENTS else "option"
        yield from (f"| {what} | |", "|---|---|")
        yield from (f"| `{_cell(words)}` | {_cell(text).replace('<', '&lt;')} |" for words, text in rows)
        yield ""
    if lines := examples(command):
        yield from ("```bash", *lines, "```", "")
    if hasattr(command, "list_commands"):
        for each in command.list_commands(context):
            child = command.get_command(context, each)
            if not child.hidden:
                inner = typer.Context(child, info_name=each, parent=context)
                yield from _describe(child, inner, f"{name} {each}", depth + 1 if depth > 2 else 2)


def examples(command: Any) -> list[str]:
    """The examples at the end of a command's help."""
    lines = (command.epilog or "").replace("\\[", "[").splitlines()
    return [line for line in lines if line.startswith("autotune")]


def _paragraphs(text: str | None) -> Iterator[str]:
    """The help of a command."""
    if text:
        yield from (text.strip(), "")


def _panels(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    """Arguments and options by the group that `--help` shows them in; `--help` itself is left out."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or parameter.name == "help":
            continue
        usual = _ARGUMENTS if parameter.param_type_name == "argument" else _FIRST_PANEL
        panel = getattr(parameter, "rich_help_panel", None) or usual
        panels.setdefault(panel, []).append(record)
    return panels


def _cell(text: str) -> str:
    """Text for a cell of a table: one line, and no bars that would end it."""
    return " ".join(text.split()).replace("|", "\\|")
