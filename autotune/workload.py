"""The prompts a draft is tuned for: reading them, splitting them, turning them into token ids.

Formats: `.jsonl` / `.json` files hold one JSON object a line with a `prompt` and optionally a `category` and a
`source`, the document it was cut from (other keys are ignored); `"split": "train"` keeps a prompt out of the estimation
and the validation.  Any other file is plain text, one prompt a line.  Blank lines are skipped.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.errors import BadRequest
from autotune.grouping import choose_groups, linked
from autotune.targets import demo_folder
from autotune.tokenizer import Tokenizer

BUILTIN = "builtin"
SPLIT_SHARES = (0.25, 0.375, 0.375)
"""Shares of the prompts to train on, to estimate on and to validate with."""
_JSON_SUFFIXES = (".jsonl", ".json")


@dataclass(frozen=True)
class Prompt:
    """A text to continue, what kind it is, and where it came from."""

    text: str
    category: str
    source: str
    only_train: bool = False
    """Extra text to train the proxy on; never estimated on or validated with."""
    document: str | None = None
    """What it was cut from, as its file says: prompts of one document may overlap.  None is a document of its own."""


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as token ids `[P]`, P ≥ 1."""

    ids: NDArray[np.int32]
    category: str
    source: str


@dataclass(frozen=True)
class Splits:
    """Three sets of prompts that never mix: to train the proxy on, to estimate acceptance on, to validate with."""

    train: tuple[Prompt, ...]
    estimate: tuple[Prompt, ...]
    validate: tuple[Prompt, ...]
    documents_apart: bool
    """Whether no document has prompts both in `train` and in the others."""


def read_prompts(path_or_builtin: str | Path) -> tuple[Prompt, ...]:
    """The prompts of a file, or the demo's own for `builtin`; BadRequest if it is missing, empty or malformed."""
    if str(path_or_builtin) == BUILTIN:
        return _read_file(demo_folder() / "prompts.jsonl") + _read_file(demo_folder() / "train_prompts.jsonl")
    return _read_file(Path(path_or_builtin).expanduser())


def _read_file(path: Path) -> tuple[Prompt, ...]:
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise BadRequest(f"prompts file {path} does not exist") from None
    except OSError as error:
        raise BadRequest(f"cannot read the prompts file {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"prompts file {path} is not UTF-8: byte {error.start} is wrong; save it as UTF-8") from error
    # Only line feeds separate lines: JSON strings may hold the other characters that splitlines() breaks at.
    lines = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    parse = _json_prompt if path.suffix.lower() in _JSON_SUFFIXES else _text_prompt
    prompts = tuple(parse(line, path, number) for number, line in enumerate(lines, 1) if line.strip())
    if not prompts:
        raise BadRequest(f"prompts file {path} is empty: give at least one prompt")
    return prompts


def split_prompts(prompts: Sequence[Prompt], seed: int, shares: tuple[float, float, float] = SPLIT_SHARES) -> Splits:
    """The prompts dealt to the three splits in these shares, each category alike, each split at least one.

    Equal texts stay together.  Documents are trained on whole or not at all, since passages of one document overlap;
    those with extra text to train on are, and others until the share is nearly met.  Estimation and validation, both
    held out from training, may share documents with each other.  Where that is impossible, as with one document alone,
    texts are dealt one by one.  Deterministic: the same prompts and seed give the same splits.
    """
    texts = _shuffled_by_category([prompt for prompt in prompts if not prompt.only_train], seed)
    if len(texts) < len(shares):
        raise BadRequest(
            f"{len(shares)} different prompts are needed (to train, to estimate, to validate), not {len(texts)}"
        )
    group_of, bound = _documents(prompts, texts)
    several = len(set(group_of)) < len(texts) or bool(bound)
    trained = _choose_documents(prompts, texts, group_of, bound, shares[0], seed) if several else None
    if trained is None:
        dealt = _deal(texts, shares)
    else:
        held_out = [text for text in texts if text not in trained]
        dealt = [list(trained), *_deal(held_out, shares[1:])]
    split_of = {text: index for index, part in enumerate(dealt) for text in part}
    for prompt in prompts:
        split_of.setdefault(prompt.text, 0)
    train, estimate, validate = (
        tuple(prompt for prompt in prompts if split_of[prompt.text] == index) for index in range(len(shares))
    )
    return Splits(train, estimate, validate, documents_apart=trained is not None or not several)


def _deal(texts: Sequence[str], shares: Sequence[float]) -> list[list[str]]:
    """The texts in parts of these shares (of their sum), each at least one."""
    dealt: list[list[str]] = [[] for _ in shares]
    # Each text goes to the part that is furthest behind its share, so categories spread evenly.
    for count, text in enumerate(texts, 1):
        behind = [share / sum(shares) * count - len(part) for share, part in zip(shares, dealt, strict=True)]
        dealt[behind.index(max(behind))].append(text)
    for part in dealt:
        if not part:
            part.append(max(dealt, key=len).pop())
    return dealt


def _documents(prompts: Sequence[Prompt], texts: Sequence[str]) -> tuple[list[int], set[int]]:
    """For each text its group, linked by documents and equal texts; and the groups with extra text to train on."""
    place = {text: index for index, text in enumerate(texts)}
    named = [prompt for prompt in prompts if prompt.document is not None]
    group_of = linked(len(texts), [(place[each.text], each.document) for each in named if each.text in place])
    document_group = {each.document: group_of[place[each.text]] for each in named if each.text in place}
    extra = {each.document for each in named if each.text not in place}
    return group_of, {group for document, group in document_group.items() if document in extra}


def _choose_documents(
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    group_of: Sequence[int],
    bound: Collection[int],
    share: float,
    seed: int,
) -> set[str] | None:
    """The texts of whole groups that come nearest the share, in all and of each category; None if they cannot."""
    groups, row_of = np.unique(group_of, return_inverse=True)
    most = len(texts) - (len(SPLIT_SHARES) - 1)
    if len(groups) < 2 or sum(group in bound for group in group_of) > most:
        return None
    category_of: dict[str, str] = {}
    for prompt in prompts:
        if not prompt.only_train:
            category_of.setdefault(prompt.text, prompt.category)
    categories = sorted(set(category_of.values()))
    counts = np.zeros((len(groups), len(categories)), np.int64)
    for text, row in zip(texts, row_of, strict=True):
        counts[row, categories.index(category_of[text])] += 1
    rng = np.random.default_rng([seed, len(texts)])
    chosen = choose_groups(counts, share, most, np.isin(groups, list(bound)), rng)
    return {text for text, row in zip(texts, row_of, strict=True) if chosen[row]}


def tokenize(prompts: Sequence[Prompt], tokenizer: Tokenizer, context_tokens: int) -> tuple[PromptTokens, ...]:
    """The prompts as token ids; BadRequest if one leaves no room for a new token in the context."""
    result = []
    for prompt in prompts:
        ids = np.array(tokenizer.encode(prompt.text), np.int32)
        if not len(ids):
            raise BadRequest(f"the prompt from {prompt.source} has no tokens")
        if len(ids) >= context_tokens:
            raise BadRequest(
                f"the prompt from {prompt.source} has {len(ids)} tokens, but the target's context is "
                f"{context_tokens}: shorten it to {context_tokens - 1} or fewer"
            )
        result.append(PromptTokens(ids, prompt.category, prompt.source))
    return tuple(result)


def _text_prompt(line: str, path: Path, number: int) -> Prompt:
    return Prompt(line, category="text", source=f"{path.name}:{number}")


def _json_prompt(line: str, path: Path, number: int) -> Prompt:
    try:
        entry: Any = json.loads(line)
    except ValueError as error:
        raise BadRequest(f"prompts file {path}, line {number} is not valid JSON: {error}") from error
    fields: Mapping[str, Any] = entry if isinstance(entry, dict) else {}
    text = fields.get("prompt")
    if not isinstance(text, str) or not text:
        raise BadRequest(f'prompts file {path}, line {number} has no prompt: write {{"prompt": "some text"}}')
    if fields.get("split", "train") != "train":
        raise BadRequest(f'prompts file {path}, line {number}: the only split a prompt can ask for is "train"')
    source = f"{path.name}:{number}"
    document = None if fields.get("source") is None else str(fields["source"])
    if document is not None:
        source += f" ({document})"
    category = fields.get("category", "text")
    if not isinstance(category, str) or not category.strip():
        raise BadRequest(
            f"prompts file {path}, line {number}: the category {json.dumps(category)} is no name: "
            'write "category": "some name", or leave it out'
        )
    return Prompt(text, category.strip(), source, only_train="split" in fields, document=document)


def _shuffled_by_category(prompts: Sequence[Prompt], seed: int) -> list[str]:
    """The distinct texts, category after category, shuffled within each."""
    texts: defaultdict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.text not in seen:
            seen.add(prompt.text)
            texts[prompt.category].append(prompt.text)
    rng = np.random.default_rng(seed)
    return [group[index] for _, group in sorted(texts.items()) for index in rng.permutation(len(group))]
