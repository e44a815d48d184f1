"""What the documentation tells its readers to type: its fenced blocks and the code in its sentences."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
"""Those written by hand; reports under `docs/` are written by the program."""

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>.*)$")
_TITLE = re.compile(r'title="([^"]+)"')
_INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    line: int
    language: str
    text: str
    title: str | None
    """The file that it shows, if it says so."""

    @property
    def place(self) -> str:
        """Where it stands, for the names of tests."""
        return f"{self.page.name}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a shell block."""

    place: str
    text: str
    words: tuple[str, ...]
    """Without assignments before it, and without the folder of its program."""
    environment: tuple[tuple[str, str], ...]
    stdin: str
    """What `echo` in front of a pipe writes."""


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found, opened, lines = [], None, page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        fence = _FENCE.match(line)
        if fence is None:
            continue
        if opened is None:
            opened = (number, fence)
            continue
        began, first = opened
        indent, info = len(first["indent"]), first["info"].strip()
        title = _TITLE.search(info)
        text = "\n".join(each[indent:] for each in lines[began : number - 1])
        found.append(Block(page, began, info.partition(" ")[0], text, title[1] if title else None))
        opened = None
    assert opened is None, f"{page}: the block of line {opened} is never closed"
    return found


def commands(block: Block) -> Iterator[Command]:
    """The commands of a shell block; comments and ellipses are no part of them."""
    whole = re.sub(r"\\\n *", lambda _: "\0", block.text)  # lines that go on, to be counted all the same
    number = block.line + 1
    for spread in whole.splitlines():
        line = spread.replace("\0", "")
        for text in line.split(" && "):
            if words := shlex.split(text, comments=True):
                yield _command(f"{block.page.name}:{number}", text.partition(" # ")[0].strip(), words)
        number += 1 + spread.count("\0")


def examples(app: typer.Typer) -> list[str]:
    """The examples at the end of every command's help."""

    def below(command: Any) -> Iterator[str]:
        yield from (line for line in (command.epilog or "").splitlines() if line.startswith("autotune"))
        context = typer.Context(command)
        for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
            yield from below(command.get_command(context, name))

    return list(below(typer.main.get_command(app)))


def inline_code(page: Path) -> Iterator[str]:
    """The code in the sentences and tables of a page, which includes no block's."""
    text, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            text.append(line)
    for match in _INLINE.finditer("\n".join(text)):
        yield " ".join(match[1].split())


def _command(place: str, text: str, words: list[str]) -> Command:
    stdin = ""
    if "|" in words:
        at = words.index("|")
        assert words[0] == "echo", f"{place}: only echo may stand before a pipe"
        stdin, words = " ".join(words[1:at]) + "\n", words[at + 1 :]
    environment = []
    while _ASSIGNMENT.fullmatch(words[0]):
        name, _, value = words.pop(0).partition("=")
        environment.append((name, value))
    program = words[0].rpartition("/")[2]
    rest = tuple(word for word in words[1:] if word != "…")
    return Command(place, text, (program, *rest), tuple(environment), stdin)
