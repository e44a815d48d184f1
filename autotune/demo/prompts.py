"""Prompts cut from held-out source: text that stops where something is about to be written."""

import ast
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer

from autotune.demo.corpus import Document

SHORTEST_TOKENS, LONGEST_TOKENS = 48, 160
_WINDOW_TOKENS = 8
_MOST_SHARED = 0.3
"""Largest share of a prompt's 8-token windows that may occur in the other prompts."""


@dataclass(frozen=True)
class CutPrompt:
    """A prompt, what it invites to write (`function`, `docstring`, `class`), and the document it is from."""

    category: str
    source: str
    prompt: str


@dataclass(frozen=True)
class _Cut:
    category: str
    lines: int
    """Lines of the document before the cut."""


def cut_prompts(
    documents: Iterable[Document], tokenizer: Tokenizer, count: int, first: Sequence[CutPrompt] = ()
) -> tuple[CutPrompt, ...]:
    """At most `count` prompts that hardly overlap: `first`, then new ones in an order that a hash decides.

    A prompt is a run of whole lines of 48 … 160 tokens that ends with the head of a function or class, or with the
    first line of a docstring.  Its length is drawn by a hash too, so equal documents give equal prompts.
    """
    seen: set[tuple[int, ...]] = set()
    for prompt in first:
        seen |= _windows(tokenizer.encode(prompt.prompt).ids)
    found: list[CutPrompt] = []
    for document in documents:
        lines = document.text.split("\n")
        for cut in _cuts(document):
            longest = SHORTEST_TOKENS + _hash(document.path, cut) % (LONGEST_TOKENS - SHORTEST_TOKENS + 1)
            text = _run_of_lines(lines[: cut.lines], longest, tokenizer, seen)
            if text:
                found.append(CutPrompt(cut.category, document.path, text))
    found.sort(key=lambda each: zlib.crc32(each.prompt.encode()))
    return (*first, *found)[:count]


def write_prompts(prompts: Iterable[CutPrompt], path: Path, *, only_train: bool = False) -> None:
    """Write one JSON object a line; `only_train` marks them as extra text to train proxies on."""
    mark = {"split": "train"} if only_train else {}
    path.write_text("".join(json.dumps(asdict(prompt) | mark) + "\n" for prompt in prompts), encoding="utf-8")


def _run_of_lines(lines: Sequence[str], longest: int, tokenizer: Tokenizer, seen: set[tuple[int, ...]]) -> str | None:
    """The longest admissible text that ends with the last of `lines`, its windows entered into `seen`."""
    starts: list[int] = []
    for start in range(len(lines) - 1, -1, -1):
        tokens = len(tokenizer.encode("\n".join(lines[start:])).ids)
        if tokens > longest:
            break
        if tokens >= SHORTEST_TOKENS and lines[start].strip():
            starts.append(start)
    for start in reversed(starts):
        text = "\n".join(lines[start:])
        windows = _windows(tokenizer.encode(text).ids)
        if len(windows & seen) <= _MOST_SHARED * len(windows):
            seen |= windows
            return text
    return None


def _cuts(document: Document) -> list[_Cut]:
    """Where something is about to be written, from top to bottom: one place for each function and class."""
    lines = document.text.split("\n")
    cuts: list[_Cut] = []
    for node in ast.walk(ast.parse(document.text)):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[0]
        head = next((n for n in range(node.lineno, body.lineno) if lines[n - 1].rstrip().endswith(":")), None)
        if head is None:
            continue
        cut = _Cut("class" if isinstance(node, ast.ClassDef) else "function", head)
        if ast.get_docstring(node, clean=False) and _hash(document.path, cut) % 2:
            cut = _Cut("docstring", body.lineno)
        cuts.append(cut)
    return sorted(cuts, key=lambda cut: cut.lines)


def _windows(ids: Sequence[int]) -> set[tuple[int, ...]]:
    return {tuple(ids[at : at + _WINDOW_TOKENS]) for at in range(len(ids) - _WINDOW_TOKENS + 1)}


def _hash(path: str, cut: _Cut) -> int:
    return zlib.crc32(f"{path}:{cut.lines}:{cut.category}".encode())
