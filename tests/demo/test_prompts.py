import json
from collections import Counter
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from autotune.demo.corpus import Document, is_held_out, read_corpus
from autotune.demo.prompts import LONGEST_TOKENS, SHORTEST_TOKENS, CutPrompt, cut_prompts, write_prompts
from autotune.targets import demo_folder

DOCUMENT = """\
import os

NAMES = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
OTHERS = {"nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14}


class Reader(
    Base,
):
    def read(self, size):
        # A comment between head and body.
        return self.stream.read(size)
"""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(demo_folder() / "tokenizer.json"))


@pytest.fixture(scope="module")
def demo_prompts() -> list[CutPrompt]:
    lines = (demo_folder() / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [CutPrompt(**json.loads(line)) for line in lines]


def test_prompts_stop_behind_a_head(tokenizer: Tokenizer) -> None:
    prompts = cut_prompts([Document("./reader.py", DOCUMENT)], tokenizer, 10)

    assert [prompt.category for prompt in prompts] == ["class"]
    assert prompts[0].prompt.endswith("class Reader(\n    Base,\n):")
    assert prompts[0].source == "./reader.py"


def test_prompts_of_a_library_are_short_distinct_and_repeatable(library: Path, tokenizer: Tokenizer) -> None:
    documents = read_corpus(library).held_out
    prompts = cut_prompts(documents, tokenizer, 20)

    assert prompts == cut_prompts(documents, tokenizer, 20)
    assert len({prompt.prompt for prompt in prompts}) == len(prompts) > 3
    texts = {document.path: document.text for document in documents}
    for prompt in prompts:
        assert prompt.prompt in texts[prompt.source]
        assert SHORTEST_TOKENS <= len(tokenizer.encode(prompt.prompt).ids) <= LONGEST_TOKENS


def test_given_prompts_stay_in_front_and_are_not_cut_again(library: Path, tokenizer: Tokenizer) -> None:
    documents = read_corpus(library).held_out
    first = cut_prompts(documents, tokenizer, 100)[:3]
    longer = cut_prompts(documents, tokenizer, 100, first)

    assert longer[:3] == first
    assert not set(first) & set(longer[3:])


def test_prompts_can_be_read_back(tmp_path: Path) -> None:
    prompt = CutPrompt("function", "./a.py", 'def quote():\n    "\u2028 é"')
    write_prompts([prompt], tmp_path / "prompts.jsonl")

    assert CutPrompt(**json.loads((tmp_path / "prompts.jsonl").read_text())) == prompt


def test_demo_prompts_are_from_held_out_files(demo_prompts: list[CutPrompt], tokenizer: Tokenizer) -> None:
    held_out = json.loads((demo_folder() / "heldout_files.json").read_text())

    assert len(demo_prompts) == 400
    assert {prompt.category for prompt in demo_prompts} == {"function", "docstring", "class"}
    assert all(prompt.source in held_out and is_held_out(prompt.source) for prompt in demo_prompts)
    lengths = [len(tokenizer.encode(prompt.prompt).ids) for prompt in demo_prompts]
    assert SHORTEST_TOKENS <= min(lengths) <= max(lengths) <= LONGEST_TOKENS


def test_demo_prompts_added_later_hardly_overlap(demo_prompts: list[CutPrompt], tokenizer: Tokenizer) -> None:
    windows = []
    for prompt in demo_prompts:
        ids = tokenizer.encode(prompt.prompt).ids
        windows.append({tuple(ids[at : at + 8]) for at in range(len(ids) - 7)})
    seen = set().union(*windows[:137])
    by_source = Counter(prompt.source for prompt in demo_prompts)

    # The order in which they were cut is by file, from top to bottom: any order keeps the average below the cap.
    shared = []
    for own in windows[137:]:
        shared.append(len(own & seen) / len(own))
        seen |= own
    assert sum(shared) / len(shared) < 0.3
    assert max(by_source.values()) < 0.25 * len(demo_prompts)


def test_demo_documents_parse_where_they_were_cut(demo_prompts: list[CutPrompt]) -> None:
    for prompt in demo_prompts[137:]:
        last = prompt.prompt.split("\n")[-1].strip()
        assert last.endswith(":") or last.startswith(('"""', 'r"""', "'''", '"')), last
