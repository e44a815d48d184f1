import json
import shutil
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from autotune.errors import BadRequest
from autotune.targets import demo_folder
from autotune.tokenizer import Tokenizer, tokenizer_files
from autotune.workload import read_prompts
from tests.support.checkpoints import EOS_ID, EOS_TOKEN, edit_json

DEMO = Tokenizer.open(demo_folder())
TEXT = "naïve = 'Ünïcödé 漢字 🎉🏳️‍🌈'  # done\n"


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copied"))


def test_equals_transformers_on_the_demo() -> None:
    theirs = AutoTokenizer.from_pretrained(demo_folder())
    for text in [*(prompt.text for prompt in read_prompts("builtin")[:40]), TEXT]:
        ids = DEMO.encode(text)
        assert ids == theirs.encode(text)
        assert DEMO.decode(ids) == theirs.decode(ids, skip_special_tokens=True) == text


def test_special_tokens_are_not_text() -> None:
    assert DEMO.special_tokens == {EOS_TOKEN: 0}
    assert DEMO.decode([0, *DEMO.encode("pass"), 0]) == "pass"


def test_excerpts_get_no_bos_but_an_empty_prompt_does() -> None:
    assert EOS_ID not in DEMO.encode("return x")
    assert DEMO.encode("") == [DEMO.bos_id] == [0]


def test_bos_is_added_where_the_tokenizer_says_so(folder: Path) -> None:
    plain = Tokenizer.open(folder)
    edit_json(folder / "tokenizer_config.json", add_bos_token=True)
    with_bos = Tokenizer.open(folder)
    assert with_bos.encode("def") == [EOS_ID, *plain.encode("def")]
    assert with_bos.fingerprint != plain.fingerprint


def test_a_template_that_adds_bos_is_followed_once(folder: Path) -> None:
    plain = Tokenizer.open(folder)
    template = TemplateProcessing(single=f"{EOS_TOKEN} $A", special_tokens=[(EOS_TOKEN, EOS_ID)])
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.post_processor = template
    library.save(str(folder / "tokenizer.json"))
    expected = [EOS_ID, *plain.encode("def")]
    assert Tokenizer.open(folder).encode("def") == expected
    edit_json(folder / "tokenizer_config.json", add_bos_token=True)
    assert Tokenizer.open(folder).encode("def") == expected
    edit_json(folder / "tokenizer_config.json", add_bos_token=False)
    assert Tokenizer.open(folder).encode("def") == plain.encode("def")


def test_special_ids_come_from_the_most_specific_file(folder: Path) -> None:
    edit_json(folder / "config.json", eos_token_id=5, bos_token_id=6)
    edit_json(folder / "generation_config.json", eos_token_id=[7, 8], bos_token_id=None)
    tokenizer = Tokenizer.open(folder)
    assert (tokenizer.eos_ids, tokenizer.bos_id) == ((7, 8), 6)
    (folder / "generation_config.json").unlink()
    assert Tokenizer.open(folder).eos_ids == (5,)
    (folder / "config.json").unlink()
    assert (Tokenizer.open(folder).eos_ids, Tokenizer.open(folder).bos_id) == ((EOS_ID,), EOS_ID)
    (folder / "tokenizer_config.json").unlink()
    assert (Tokenizer.open(folder).eos_ids, Tokenizer.open(folder).bos_id) == ((), None)


def test_token_names_may_be_objects(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", eos_token={"content": EOS_TOKEN, "special": True})
    for name in ("config.json", "generation_config.json"):
        (folder / name).unlink()
    assert Tokenizer.open(folder).eos_ids == (EOS_ID,)


def test_its_files_are_enough_to_open_it_elsewhere(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in tokenizer_files(folder):
        shutil.copy(path, elsewhere)
    here, there = Tokenizer.open(folder), Tokenizer.open(elsewhere)
    assert (there.fingerprint, there.eos_ids, there.bos_id) == (here.fingerprint, here.eos_ids, here.bos_id)


def test_missing_and_corrupt_files_are_refused(folder: Path) -> None:
    content = (folder / "tokenizer.json").read_text()
    for broken in ("", content[:500], json.dumps({"version": "1.0"}), "\xff"):
        (folder / "tokenizer.json").write_text(broken)
        with pytest.raises(BadRequest, match=r"tokenizer.json is corrupt"):
            Tokenizer.open(folder)
    (folder / "tokenizer.json").write_text(content)
    edit_json(folder / "config.json", bos_token_id="zero")
    edit_json(folder / "generation_config.json", bos_token_id=None)
    with pytest.raises(BadRequest, match="bos_token_id must be a token id"):
        Tokenizer.open(folder)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(BadRequest, match=r"tokenizer_config.json is not valid JSON"):
        Tokenizer.open(folder)


@given(st.text(st.characters(exclude_characters="\N{REPLACEMENT CHARACTER}", exclude_categories=["Cs"])))
def test_streamed_text_is_the_text_and_never_half_a_character(text: str) -> None:
    stream = DEMO.stream()
    pieces = [stream.push(token_id) for token_id in DEMO.encode(text)]
    assert "".join(pieces) == text
    assert stream.finish() == ""


@given(st.lists(st.integers(0, len(DEMO.vocabulary) - 1), max_size=60))
def test_streaming_any_ids_gives_what_decoding_them_gives(ids: list[int]) -> None:
    """Sampled ids need not be valid UTF-8, and may be special."""
    stream = DEMO.stream()
    pieces = [stream.push(token_id) for token_id in ids]
    assert "".join(pieces) + stream.finish() == DEMO.decode(ids)


def test_a_cut_character_shows_at_the_end_only() -> None:
    ids = DEMO.encode("x🎉")[:-1]
    stream = DEMO.stream()
    assert "".join(stream.push(token_id) for token_id in ids) == "x"
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"
    assert stream.finish() == ""
