from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from autotune.candidate import Precision
from autotune.errors import BadRequest
from autotune.program import Program
from autotune.recording import Recorder, WorkloadTraces, count_categories, workload_key
from autotune.recording import _deal as deal
from autotune.sampling import SamplingSettings
from autotune.targets import Target, resolve_target
from autotune.trace_files import load_traces, save_traces
from autotune.traces import Tokens, Trace, Traces
from autotune.workload import PromptTokens
from tests.support.checkpoints import VOCAB
from tests.support.full_disk import full_disk

CONTEXT, NEW = 60, 5
SAMPLED = SamplingSettings(1.0)


class SuccessorModel:
    """Token t is followed by t + 3, almost surely at temperature 1."""

    def __init__(self, target: Target) -> None:
        self.program = Program("fake", "cpu", Precision.FP32, target.shape, target.numerics, CONTEXT)

    def logits(self, tokens: Tokens, start: int) -> NDArray[np.float32]:
        logits = np.zeros((len(tokens), VOCAB), np.float32)
        logits[np.arange(len(tokens)), (np.asarray(tokens) + 3) % VOCAB] = 20.0
        return logits

    def greedy(self, tokens: Tokens, start: int) -> NDArray[np.int64]:
        return self.logits(tokens, start).argmax(-1)


@pytest.fixture(scope="module")
def target(tiny_checkpoint: Path) -> Target:
    return resolve_target(str(tiny_checkpoint))


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def make_recorder(target: Target) -> Callable[..., Recorder]:
    def make(**changes: object) -> Recorder:
        recorder = Recorder(
            target, SAMPLED, NEW, CONTEXT, 0, lambda: SuccessorModel(target), on_progress=lambda done, total: None
        )
        return replace(recorder, **changes)

    return make


def no_model() -> SuccessorModel:
    raise AssertionError("a model was opened")


def write_prompts(path: Path, count: int = 40, train: int = 0) -> str:
    """A prompts file whose texts differ from their first character on."""
    lines = [f'{{"prompt": "{chr(0x4E00 + n)} the quick brown fox, {n}", "category": "{n % 2}"}}' for n in range(count)]
    lines += [f'{{"prompt": "{chr(0x5E00 + n)} only to train on", "split": "train"}}' for n in range(train)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def marks(target: Target, traces: WorkloadTraces) -> list[set[str]]:
    """The first characters of the prompts of each split, which tell the prompts apart even when they were cut."""
    tokenizer = target.open_tokenizer()
    splits = [
        [trace.prompt for trace in traces.train.items],
        [trace.prompt for trace in traces.estimate.items],
        list(traces.validate),
    ]
    return [{tokenizer.decode(ids.tolist())[0] for ids in prompts} for prompts in splits]


@pytest.mark.parametrize("training_tokens", [0, 30, 2000])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_splits_of_a_prompts_file_never_mix(
    tmp_path: Path, target: Target, make_recorder: Callable[..., Recorder], seed: int, training_tokens: int
) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", train=4)
    traces = make_recorder(seed=seed).from_prompts(prompts, training_tokens)
    train, estimate, validate = marks(target, traces)
    assert not train & estimate
    assert not train & validate
    assert not estimate & validate
    assert len(estimate) == len(traces.estimate.items) == len(validate) == 15
    extra = {chr(0x5E00 + n) for n in range(4)}
    assert not extra & (estimate | validate)
    assert train <= {chr(0x4E00 + n) for n in range(40)} | extra


def categories_of(traces: WorkloadTraces) -> list[Counter[str]]:
    """Of the estimation and the validation."""
    return [Counter(trace.category for trace in traces.estimate.items), Counter(traces.validate_categories)]


def test_categories_are_counted_as_the_splits_will_have_them(
    tmp_path: Path, make_recorder: Callable[..., Recorder], traces_file: Path
) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", train=4)
    counts = count_categories(prompts, None, seed=1)
    assert counts.everything == {"0": 20, "1": 20, "text": 4}
    traces = make_recorder(seed=1).from_prompts(prompts, 0)
    assert [counts.estimate, counts.validate] == categories_of(traces)
    assert len(traces.validate_categories) == len(traces.validate)
    named = replace(
        load_traces(traces_file),
        items=tuple(
            replace(trace, category=str(place % 3)) for place, trace in enumerate(load_traces(traces_file).items)
        ),
    )
    save_traces(named, traces_file)
    counts = count_categories("builtin", traces_file, seed=1)
    assert counts.everything == {"0": 5, "1": 5, "2": 4}
    recorded = make_recorder(seed=1, open_model=no_model).from_file(traces_file, 0)
    assert [counts.estimate, counts.validate] == categories_of(recorded)


def test_training_text_is_as_long_as_asked(tmp_path: Path, make_recorder: Callable[..., Recorder]) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl")
    recorder = make_recorder()
    few = recorder.from_prompts(prompts, 0)
    many = recorder.from_prompts(prompts, 1000)
    assert len(few.train.items) == 10
    assert 0.8 * 1000 <= many.train.tokens <= 1000 + NEW
    assert few.estimate.items[0].prompt.tolist() == many.estimate.items[0].prompt.tolist()
    whole = {trace.prompt.tobytes() for trace in few.train.items}
    cut = [trace.prompt.tobytes() for trace in many.train.items if trace.prompt.tobytes() not in whole]
    assert cut
    assert all(any(prompt.startswith(beginning) for prompt in whole) for beginning in cut)


def test_what_was_recorded_is_found_again_without_a_model(
    tmp_path: Path, make_recorder: Callable[..., Recorder]
) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl")
    first = make_recorder().from_prompts(prompts, 500)
    again = make_recorder(open_model=no_model).from_prompts(prompts, 500)
    moved = make_recorder(open_model=no_model).from_prompts(write_prompts(tmp_path / "moved.jsonl"), 500)
    for traces in (again, moved):
        for split in ("train", "estimate"):
            before, after = getattr(first, split).items, getattr(traces, split).items
            assert [trace.tokens.tolist() for trace in before] == [trace.tokens.tolist() for trace in after]
        assert [ids.tolist() for ids in first.validate] == [ids.tolist() for ids in traces.validate]


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"max_new_tokens": 4}, {"settings": SamplingSettings(0.5)}, {"context_tokens": CONTEXT - 1}],
)
def test_other_traces_are_recorded_anew(
    tmp_path: Path, make_recorder: Callable[..., Recorder], changes: dict[str, object]
) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl")
    make_recorder().from_prompts(prompts, 0)
    with pytest.raises(AssertionError, match="a model was opened"):
        make_recorder(open_model=no_model, **changes).from_prompts(prompts, 0)


def test_another_target_is_recorded_anew(
    tmp_path: Path, target: Target, make_recorder: Callable[..., Recorder]
) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl")
    make_recorder().from_prompts(prompts, 0)
    with pytest.raises(AssertionError, match="a model was opened"):
        make_recorder(open_model=no_model, target=replace(target, fingerprint="x")).from_prompts(prompts, 0)


def test_a_recording_cut_short_leaves_nothing_in_the_cache(
    tmp_path: Path, fresh_cache: Path, make_recorder: Callable[..., Recorder]
) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    prompts = write_prompts(tmp_path / "p.jsonl")
    with pytest.raises(KeyboardInterrupt):
        make_recorder(on_progress=stop).from_prompts(prompts, 0)
    assert not list(fresh_cache.rglob("*.safetensors"))
    make_recorder().from_prompts(prompts, 0)


def test_prompts_of_one_source_are_noted(
    tmp_path: Path, make_recorder: Callable[..., Recorder], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "p.jsonl"
    write_prompts(path, 12)
    make_recorder().from_prompts(str(path), 0)
    assert not caplog.records
    path.write_text(path.read_text(encoding="utf-8").replace('"category"', '"source": "one", "category"'))
    make_recorder().from_prompts(str(path), 0)
    (note,) = caplog.records
    assert "come from too few sources" in note.getMessage()


def test_training_traces_alone_carry_alternatives(
    tmp_path: Path, fresh_cache: Path, make_recorder: Callable[..., Recorder]
) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl")
    recorded = make_recorder().from_prompts(prompts, 200)
    again = make_recorder(open_model=no_model).from_prompts(prompts, 200)
    for traces in (recorded, again):
        assert all(trace.alternatives is not None for trace in traces.train.items)
        assert all(trace.alternatives is None for trace in traces.estimate.items)


def test_what_was_recorded_without_alternatives_does_not_do_for_training(
    target: Target, make_recorder: Callable[..., Recorder]
) -> None:
    prompts = [PromptTokens(np.array([1, 2, 3], np.int32), "code", "here")]
    plain = make_recorder().record(prompts)
    with pytest.raises(AssertionError, match="a model was opened"):
        make_recorder(open_model=no_model).record(prompts, alternatives=True)
    full = make_recorder().record(prompts, alternatives=True)
    assert plain.items[0].tokens.tolist() == full.items[0].tokens.tolist()
    assert make_recorder(open_model=no_model).record(prompts).items[0].alternatives is None


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(
    tmp_path: Path, fresh_cache: Path, make_recorder: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr("autotune.tensor_file.save_file", full_disk)
        with pytest.raises(BadRequest, match=r"cannot write .*: No space left on device$") as error:
            make_recorder().from_prompts(prompts, 0)
    assert "\n" not in str(error.value)
    assert {path.suffix for path in fresh_cache.rglob("*") if path.is_file()} <= {".lock"}
    assert not [path for path in fresh_cache.rglob("*") if path.is_dir() and path.parent == fresh_cache / "traces"]
    make_recorder().from_prompts(prompts, 0)


def test_too_few_prompts_are_refused(tmp_path: Path, make_recorder: Callable[..., Recorder]) -> None:
    with pytest.raises(BadRequest, match="3 different prompts are needed"):
        make_recorder().from_prompts(write_prompts(tmp_path / "p.jsonl", 2, train=9), 0)


def traces_of(target: Target, prompts: list[list[int]], settings: SamplingSettings = SAMPLED) -> Traces:
    items = []
    for place, prompt in enumerate(prompts):
        continuation = np.full(NEW, place % VOCAB, np.int32)
        top = np.concatenate([[-1], prompt[1:], continuation]).astype(np.int32)
        logprobs = np.zeros(NEW, np.float32)
        items.append(Trace(np.array(prompt, np.int32), continuation, logprobs, top, "text"))
    return Traces(tuple(items), settings, target.fingerprint, target.tokenizer_fingerprint, seed=0)


@pytest.fixture
def traces_file(tmp_path: Path, target: Target) -> Path:
    """Twelve prompts, the first of them with three continuations."""
    prompts = [[n + 1] * 20 for n in range(12)]
    save_traces(traces_of(target, [prompts[0], prompts[0], *prompts]), tmp_path / "traces.safetensors")
    return tmp_path / "traces.safetensors"


def first_tokens(traces: WorkloadTraces) -> list[set[int]]:
    splits = [
        [trace.prompt for trace in traces.train.items],
        [trace.prompt for trace in traces.estimate.items],
        list(traces.validate),
    ]
    return [{int(prompt[0]) for prompt in prompts} for prompts in splits]


@pytest.mark.parametrize("seed", range(4))
def test_recorded_traces_are_dealt_without_mixing(
    traces_file: Path, make_recorder: Callable[..., Recorder], seed: int
) -> None:
    traces = make_recorder(seed=seed, open_model=no_model).from_file(traces_file, 0)
    train, estimate, validate = first_tokens(traces)
    assert (len(train), len(estimate), len(validate)) == (3, 5, 4)
    assert train | estimate | validate == set(range(1, 13))
    assert len(traces.train.items) + len(traces.estimate.items) + len(traces.validate) == 14


def test_what_recorded_traces_lack_is_recorded_from_their_training_prompts(
    traces_file: Path, make_recorder: Callable[..., Recorder]
) -> None:
    bare = make_recorder().from_file(traces_file, 0)
    full = make_recorder().from_file(traces_file, 400)
    given = len(bare.train.items)
    assert [t.tokens.tolist() for t in full.train.items[:given]] == [t.tokens.tolist() for t in bare.train.items]
    assert 400 <= full.train.tokens <= 400 + NEW
    assert first_tokens(full) == first_tokens(bare)


def test_a_file_brings_its_alternatives(tmp_path: Path, target: Target, make_recorder: Callable[..., Recorder]) -> None:
    prompts = [PromptTokens(np.array([n + 1] * 20, np.int32), "text", "here") for n in range(8)]
    save_traces(make_recorder().record(prompts, alternatives=True), tmp_path / "full.safetensors")
    traces = make_recorder(open_model=no_model).from_file(tmp_path / "full.safetensors", 0)
    for trace in traces.train.items:
        assert trace.alternatives is not None
        assert trace.alternatives.tokens[0] == (trace.prompt[0] + 3) % VOCAB
    save_traces(make_recorder().record(prompts), tmp_path / "bare.safetensors")
    mixed = make_recorder().from_file(tmp_path / "bare.safetensors", 50).train.items
    assert {trace.alternatives is None for trace in mixed} == {True, False}, "what is recorded anew has them"


@given(
    st.lists(st.integers(0, 30), min_size=3, max_size=60).filter(lambda texts: len(set(texts)) >= 3),
    st.integers(0, 10),
)
def test_every_split_gets_a_prompt_and_every_trace_a_split(texts: list[int], seed: int) -> None:
    one = np.zeros(1, np.int32)
    items = [
        Trace(np.array([text], np.int32), one, one.astype(np.float32), np.zeros(2, np.int32), "") for text in texts
    ]
    parts = deal(items, seed, Path("file"))
    prompts = [{int(trace.prompt[0]) for trace in part} for part in parts]
    assert all(prompts)
    assert sum(map(len, prompts)) == len(set(texts))
    assert sum(map(len, parts)) == len(texts)
    if len(set(texts)) >= 8:
        assert len(prompts[0]) < len(prompts[1]) + len(prompts[2])


def test_traces_that_do_not_fit_the_run_are_refused(
    tmp_path: Path, traces_file: Path, target: Target, make_recorder: Callable[..., Recorder]
) -> None:
    few = tmp_path / "few.safetensors"
    save_traces(traces_of(target, [[1], [2], [1], [2]]), few)
    with pytest.raises(BadRequest, match="holds 2 different prompts: at least 3 are needed"):
        make_recorder().from_file(few, 0)
    with pytest.raises(BadRequest, match=r"was recorded with --temperature 1 --top-k \d+ --top-p \S+: give the same"):
        make_recorder(settings=SamplingSettings()).from_file(traces_file, 0)
    with pytest.raises(BadRequest, match="from another target"):
        make_recorder(target=replace(target, fingerprint="x")).from_file(traces_file, 0)
    with pytest.raises(BadRequest, match="with another tokenizer"):
        make_recorder(target=replace(target, tokenizer_fingerprint="x")).from_file(traces_file, 0)
    with pytest.raises(BadRequest, match="does not exist"):
        make_recorder().from_file(tmp_path / "nowhere.safetensors", 0)


def key_of(target: Target, prompts: str = "unused", traces: Path | None = None, **changes: int) -> str:
    named = {"context_tokens": CONTEXT, "seed": 0} | changes
    return workload_key(target, SAMPLED, prompts, traces, **named)


def test_a_workload_is_known_by_its_content(tmp_path: Path, target: Target, traces_file: Path) -> None:
    first = key_of(target, write_prompts(tmp_path / "p.jsonl"))
    assert first == key_of(target, write_prompts(tmp_path / "moved.jsonl"))
    others = [
        key_of(target, write_prompts(tmp_path / "more.jsonl", 41)),
        key_of(target, write_prompts(tmp_path / "extra.jsonl", 40, train=1)),
        key_of(target, traces=traces_file),
    ]
    category = tmp_path / "category.jsonl"
    category.write_text((tmp_path / "p.jsonl").read_text().replace('"category": "1"', '"category": "2"', 1))
    others.append(key_of(target, str(category)))
    sources = tmp_path / "sources.jsonl"
    sources.write_text((tmp_path / "p.jsonl").read_text().replace('"category"', '"source": "one", "category"', 2))
    others.append(key_of(target, str(sources)))
    assert len({first, *others}) == 6


def test_a_workload_the_target_cannot_work_with_is_refused(tmp_path: Path, target: Target, traces_file: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl")
    with pytest.raises(BadRequest, match=r"p\.jsonl:1 has \d+ tokens, but the target's context is 10"):
        key_of(target, prompts, context_tokens=10)
    with pytest.raises(BadRequest, match="has a prompt of 20 tokens, but the run's context is 20"):
        key_of(target, traces=traces_file, context_tokens=20)
    with pytest.raises(BadRequest, match="3 different prompts are needed"):
        key_of(target, write_prompts(tmp_path / "few.jsonl", 2))
    with pytest.raises(BadRequest, match="does not exist"):
        key_of(target, str(tmp_path / "nowhere.txt"))
    assert not list(tmp_path.glob("cache/*"))
