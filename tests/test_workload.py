import json
from collections import Counter
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


def test_the_builtin_workload() -> None:
    prompts = read_prompts("builtin")
    lines = (demo_folder() / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    assert sum(not prompt.only_train for prompt in prompts) == len(lines) > 100
    assert sum(prompt.only_train for prompt in prompts) > 1000
    first = json.loads(lines[0])
    assert prompts[0] == Prompt(first["prompt"], first["category"], f"prompts.jsonl:1 ({first['source']})")


def test_jsonl(tmp_path: Path) -> None:
    lines = [
        {"prompt": "one\nline\u2028two", "category": "chat", "answer": 42},
        {"prompt": "  second  ", "source": "me"},
    ]
    text = "\ufeff" + "\r\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n"
    assert read_prompts(write(tmp_path / "p.jsonl", text)) == (
        Prompt("one\nline\u2028two", "chat", "p.jsonl:1"),
        Prompt("  second  ", "text", "p.jsonl:3 (me)"),
    )


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
    prompts = [prompt for prompt in read_prompts("builtin") if not prompt.only_train]
    parts = parts_of(split_prompts(prompts, seed=0))
    assert sum(map(len, parts)) == len(prompts)
    categories = Counter(prompt.category for prompt in prompts)
    shares = {category: count / len(prompts) for category, count in categories.items()}
    for part, expected in zip(parts, (0.25, 0.375, 0.375), strict=True):
        assert len(part) / len(prompts) == pytest.approx(expected, abs=0.04)
        for category, share in shares.items():
            assert sum(p.category == category for p in part) / len(part) == pytest.approx(share, abs=0.05)


PROMPTS = st.lists(
    st.builds(Prompt, st.sampled_from([str(n) for n in range(30)]), st.sampled_from("abc"), st.just("x")), max_size=60
)


@given(PROMPTS, st.integers(0, 5), st.sampled_from([(0.25, 0.375, 0.375), (0.02, 0.49, 0.49), (0.98, 0.01, 0.01)]))
def test_splits_never_mix(prompts: list[Prompt], seed: int, shares: tuple[float, float, float]) -> None:
    texts = {prompt.text for prompt in prompts}
    if len(texts) < 3:
        with pytest.raises(BadRequest, match=f"3 different prompts are needed .* not {len(texts)}"):
            split_prompts(prompts, seed, shares)
        return
    splits = split_prompts(prompts, seed, shares)
    assert splits == split_prompts(prompts, seed, shares)
    parts = parts_of(splits)
    assert all(parts)
    assert Counter(prompt for part in parts for prompt in part) == Counter(prompts)
    assert sum(len({prompt.text for prompt in part}) for part in parts) == len(texts)


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
