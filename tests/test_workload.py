import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import BadRequest
from autotune.targets import demo_folder
from autotune.tokenizer import Tokenizer
from autotune.workload import Prompt, Splits, read_prompts, split_prompts, tokenize


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def parts_of(splits: Splits) -> list[tuple[Prompt, ...]]:
    return [splits.train, splits.estimate, splits.validate]


def documents(prompts: tuple[Prompt, ...]) -> frozenset[str]:
    return frozenset(prompt.document for prompt in prompts if prompt.document is not None)


def test_the_builtin_workload() -> None:
    prompts = read_prompts("builtin")
    lines = (demo_folder() / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    assert sum(not prompt.only_train for prompt in prompts) == len(lines) > 100
    assert sum(prompt.only_train for prompt in prompts) > 1000
    first = json.loads(lines[0])
    assert prompts[0] == Prompt(
        first["prompt"], first["category"], f"prompts.jsonl:1 ({first['source']})", False, first["source"]
    )


def test_jsonl(tmp_path: Path) -> None:
    lines = [
        {"prompt": "one\nline\u2028two", "category": "chat", "answer": 42},
        {"prompt": "  second  ", "source": "me"},
        {"prompt": "third", "source": None},
    ]
    text = "\ufeff" + "\r\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n"
    assert read_prompts(write(tmp_path / "p.jsonl", text)) == (
        Prompt("one\nline\u2028two", "chat", "p.jsonl:1"),
        Prompt("  second  ", "text", "p.jsonl:3 (me)", document="me"),
        Prompt("third", "text", "p.jsonl:5"),
    )


@pytest.mark.parametrize("category", [3, None, "", "  ", ["code"]])
def test_a_category_that_is_no_name_is_refused_in_one_line(tmp_path: Path, category: object) -> None:
    lines = [{"prompt": "first", "category": " code "}, {"prompt": "second", "category": category}]
    text = "\n".join(map(json.dumps, lines))
    with pytest.raises(BadRequest, match=r"line 2: the category .* is no name: write .*, or leave it out") as caught:
        read_prompts(write(tmp_path / "p.jsonl", text))
    assert "\n" not in str(caught.value)
    (prompt,) = read_prompts(write(tmp_path / "p.jsonl", json.dumps(lines[0])))
    assert prompt.category == "code"


def test_prompts_that_are_only_to_train_on_stay_in_the_training_split(tmp_path: Path) -> None:
    lines = [{"prompt": f"p{n}"} for n in range(20)] + [{"prompt": f"t{n}", "split": "train"} for n in range(30)]
    lines.append({"prompt": "p3", "split": "train"})  # also a prompt to estimate or validate with: it stays where it is
    prompts = read_prompts(write(tmp_path / "p.jsonl", "\n".join(map(json.dumps, lines))))
    splits = split_prompts(prompts, seed=0)
    assert {prompt.text for prompt in splits.train} >= {f"t{n}" for n in range(30)}
    held_out = {prompt.text for prompt in splits.estimate + splits.validate}
    assert not any(text.startswith("t") for text in held_out)
    assert len(held_out | {prompt.text for prompt in splits.train}) == 50


def test_plain_text_is_one_prompt_a_line(tmp_path: Path) -> None:
    prompts = read_prompts(write(tmp_path / "p.txt", "first\n\n  second {\r\nthird"))
    assert [prompt.text for prompt in prompts] == ["first", "  second {", "third"]
    assert prompts[1].source == "p.txt:3"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "", "is empty"),
        ("p.txt", " \n\r\n\t", "is empty"),
        ("p.jsonl", "\n", "is empty"),
        ("p.txt", b"good\n\xffbad", "is not UTF-8: byte 5 is wrong"),
        ("p.jsonl", '{"prompt": "a"}\n\n{"prompt": ', "line 3 is not valid JSON"),
        ("p.jsonl", '{"prompt": "a"}\n{"text": "b"}', "line 2 has no prompt: write"),
        ("p.jsonl", '{"prompt": ""}', "line 1 has no prompt"),
        ("p.jsonl", '{"prompt": ["a"]}', "line 1 has no prompt"),
        ("p.jsonl", '"just text"', "line 1 has no prompt"),
        ("p.jsonl", '{"prompt": "a", "split": "test"}', 'the only split a prompt can ask for is "train"'),
    ],
)
def test_bad_files_are_refused(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=message):
        read_prompts(write(tmp_path / name, content))


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="does not exist"):
        read_prompts(tmp_path / "none.jsonl")
    with pytest.raises(BadRequest, match="cannot read"):
        read_prompts(tmp_path)


def test_the_builtin_workload_splits_evenly() -> None:
    everything = read_prompts("builtin")
    prompts = [prompt for prompt in everything if not prompt.only_train]
    splits = split_prompts(everything, seed=0)
    assert splits.documents_apart
    assert not documents(splits.train) & documents(splits.estimate + splits.validate)
    parts = [[prompt for prompt in part if not prompt.only_train] for part in parts_of(splits)]
    assert sum(map(len, parts)) == len(prompts)
    categories = Counter(prompt.category for prompt in prompts)
    shares = {category: count / len(prompts) for category, count in categories.items()}
    for part, expected in zip(parts, (0.25, 0.375, 0.375), strict=True):
        assert len(part) / len(prompts) == pytest.approx(expected, abs=0.04)
        for category, share in shares.items():
            assert sum(p.category == category for p in part) / len(part) == pytest.approx(share, abs=0.05)


PROMPTS = st.lists(
    st.builds(
        Prompt,
        st.sampled_from([str(n) for n in range(30)]),
        st.sampled_from("abc"),
        st.just("x"),
        st.sampled_from([False, False, False, True]),
        st.none() | st.sampled_from("RSTUVW"),
    ),
    max_size=60,
)


@given(PROMPTS, st.integers(0, 5), st.sampled_from([(0.25, 0.375, 0.375), (0.02, 0.49, 0.49), (0.98, 0.01, 0.01)]))
def test_splits_never_mix(prompts: list[Prompt], seed: int, shares: tuple[float, float, float]) -> None:
    texts = {prompt.text for prompt in prompts if not prompt.only_train}
    if len(texts) < 3:
        with pytest.raises(BadRequest, match=f"3 different prompts are needed .* not {len(texts)}"):
            split_prompts(prompts, seed, shares)
        return
    splits = split_prompts(prompts, seed, shares)
    assert splits == split_prompts(prompts, seed, shares)
    parts = parts_of(splits)
    assert all({prompt.text for prompt in part} & texts for part in parts)
    assert Counter(prompt for part in parts for prompt in part) == Counter(prompts)
    assert sum(len({prompt.text for prompt in part}) for part in parts) == len({prompt.text for prompt in prompts})
    shared = documents(splits.train) & documents(splits.estimate + splits.validate)
    assert not (splits.documents_apart and shared)
    if len({prompt.document for prompt in prompts if not prompt.only_train} - {None}) == 0:
        assert splits.documents_apart


def test_documents_are_trained_on_whole_or_not_at_all() -> None:
    prompts = [Prompt(f"{name}{n}", "ab"[n % 2], "x", document=name) for name in "RSTUVWXY" for n in range(10)]
    for seed in range(5):
        splits = split_prompts(prompts, seed)
        assert splits.documents_apart
        assert [len(part) for part in parts_of(splits)] == [20, 30, 30]
        assert len(documents(splits.train)) == 2
    assert len({documents(split_prompts(prompts, seed).train) for seed in range(5)}) > 1


def test_one_document_alone_is_dealt_text_by_text() -> None:
    prompts = [Prompt(f"p{n}", "a", "x", document="R") for n in range(20)]
    splits = split_prompts(prompts, 0)
    assert not splits.documents_apart
    bare = split_prompts([replace(prompt, document=None) for prompt in prompts], 0)
    assert bare.documents_apart
    for part, expected in zip(parts_of(splits), parts_of(bare), strict=True):
        assert [prompt.text for prompt in part] == [prompt.text for prompt in expected]


def test_a_document_with_extra_text_to_train_on_is_trained_on() -> None:
    prompts = [Prompt(f"{name}{n}", "a", "x", document=name) for name in "RSTUVWXY" for n in range(4)]
    for seed in range(5):
        splits = split_prompts([*prompts, Prompt("extra", "a", "x", only_train=True, document="T")], seed)
        assert splits.documents_apart
        assert "T" in documents(splits.train)
        assert [len(part) for part in parts_of(splits)] == [9, 12, 12]
    extras = [Prompt(f"extra {name}", "a", "x", only_train=True, document=name) for name in "RSTUVWXY"]
    assert not split_prompts([*prompts, *extras], 0).documents_apart, "nothing would be held out"


def test_equal_texts_link_their_documents() -> None:
    prompts = [Prompt(f"{name}{n}", "a", "x", document=name) for name in "RSTU" for n in range(5)]
    prompts.append(Prompt("R0", "a", "x", document="S"))
    for seed in range(5):
        trained = documents(split_prompts(prompts, seed).train)
        assert ("R" in trained) == ("S" in trained)


def test_as_few_as_three_prompts_are_split_by_document() -> None:
    prompts = [Prompt("1", "a", "x", document="R"), Prompt("2", "a", "x", document="R"), Prompt("3", "a", "x")]
    for seed in range(5):
        splits = split_prompts(prompts, seed)
        assert [prompt.text for prompt in splits.train] == ["3"]
        assert splits.documents_apart


def test_another_seed_deals_differently() -> None:
    prompts = read_prompts("builtin")
    assert split_prompts(prompts, 0).validate != split_prompts(prompts, 1).validate


def test_tokenize() -> None:
    tokenizer = Tokenizer.open(demo_folder())
    (tokens,) = tokenize([Prompt("import os", "code", "p.txt:1")], tokenizer, context_tokens=512)
    assert tokens.ids.tolist() == tokenizer.encode("import os")
    assert (tokens.category, tokens.source) == ("code", "p.txt:1")


def test_prompts_must_leave_room_in_the_context() -> None:
    tokenizer = Tokenizer.open(demo_folder())
    prompt = Prompt("x = 1\n" * 10, "code", "p.txt:7")
    length = len(tokenizer.encode(prompt.text))
    assert len(tokenize([prompt], tokenizer, length + 1)[0].ids) == length
    with pytest.raises(BadRequest, match=rf"p.txt:7 has {length} tokens, .* context is {length}: shorten it to"):
        tokenize([prompt], tokenizer, length)
