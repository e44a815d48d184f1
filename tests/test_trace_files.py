import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors import safe_open
from safetensors.numpy import save_file

from autotune.alternatives import Alternatives, no_alternatives
from autotune.errors import BadRequest
from autotune.sampling import SamplingSettings
from autotune.trace_files import load_traces, save_traces
from autotune.traces import Trace, Traces
from tests.support.full_disk import full_disk


@st.composite
def some_alternatives(draw: st.DrawFn, positions: int) -> Alternatives | None:
    if draw(st.booleans()):
        return None
    likely = st.lists(st.floats(-30, -1.5, width=32), max_size=3)  # three of them have a mass below 1
    places = draw(st.lists(likely, min_size=positions, max_size=positions))
    kept = sum(map(len, places))
    return Alternatives(
        np.array([len(place) for place in places], np.int32),
        draw(arrays(np.int32, kept, elements=st.integers(0, 2**31 - 1))),
        np.array([value for place in places for value in sorted(place, reverse=True)], np.float32),
    )


@st.composite
def a_trace(draw: st.DrawFn) -> Trace:
    prompt_tokens, continuation_tokens = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    ids = st.integers(0, 2**31 - 1)
    return Trace(
        draw(arrays(np.int32, prompt_tokens, elements=ids)),
        draw(arrays(np.int32, continuation_tokens, elements=ids)),
        draw(arrays(np.float32, continuation_tokens, elements=st.floats(-1e6, 0, width=32))),
        draw(arrays(np.int32, prompt_tokens + continuation_tokens, elements=st.integers(-1, 2**31 - 1))),
        draw(st.text(st.characters(exclude_categories=["Cs"]))),
        draw(some_alternatives(prompt_tokens + continuation_tokens)),
    )


some_settings = st.builds(SamplingSettings, st.floats(0, 100), st.integers(0, 99), st.floats(0.01, 1))
some_traces = st.builds(
    Traces,
    st.lists(a_trace(), min_size=1, max_size=4).map(tuple),
    some_settings,
    st.text("ab"),
    st.text("ab"),
    st.integers(),
)


def make_traces() -> Traces:
    ids = np.arange(3, dtype=np.int32)
    top = np.array([-1, 1, 2, 0, 1, 2], np.int32)
    trace = Trace(ids, ids, np.float32([-1, 0, -2]), top, "code")
    return Traces((trace, trace), SamplingSettings(1.0), "target", "tokenizer", 7)


def with_alternatives(*items: Alternatives | None) -> Traces:
    traces = make_traces()
    return replace(traces, items=tuple(replace(traces.items[0], alternatives=each) for each in items))


LIKELY = Alternatives(np.array([0, 1, 2, 0, 1, 1], np.int32), np.arange(5, dtype=np.int32), np.float32([-1] * 5))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_traces(make_traces(), tmp_path / "traces.safetensors")
    return tmp_path / "traces.safetensors"


def rewrite(path: Path, header: dict[str, object] | None = None, **columns: object) -> None:
    """Change the header's entries or the arrays (None removes one) of a traces file."""
    with safe_open(path, framework="numpy") as file:
        content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        metadata = json.loads(file.metadata()["autotune-traces"])
    content = {name: array for name, array in (content | columns).items() if array is not None}
    save_file(content, path, {"autotune-traces": json.dumps(metadata | (header or {}))})


@given(some_traces)
def test_loads_what_was_saved(traces: Traces) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new" / "traces.safetensors"
        save_traces(traces, path)
        loaded = load_traces(path)
        assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert (loaded.settings, loaded.seed) == (traces.settings, traces.seed)
    assert loaded.target_fingerprint == traces.target_fingerprint
    assert loaded.tokenizer_fingerprint == traces.tokenizer_fingerprint
    for ours, theirs in zip(loaded.items, traces.items, strict=True):
        assert ours.category == theirs.category
        for name in ("prompt", "continuation", "logprobs", "top"):
            mine, original = getattr(ours, name), getattr(theirs, name)
            assert mine.dtype == original.dtype
            np.testing.assert_array_equal(mine, original)
        if theirs.alternatives is None or not len(theirs.alternatives.tokens):
            assert ours.alternatives is None, "nothing known is the same, however it is said"
            continue
        assert ours.alternatives is not None
        for name, original in vars(theirs.alternatives).items():
            mine = getattr(ours.alternatives, name)
            assert mine.dtype == original.dtype
            np.testing.assert_array_equal(mine, original)


def test_newer_schemas_are_refused(saved: Path) -> None:
    rewrite(saved, {"schema_version": 3})
    with pytest.raises(BadRequest, match="has schema 3, newer than the 2 known here: upgrade"):
        load_traces(saved)


def schema_of(path: Path) -> int:
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["autotune-traces"])["schema_version"]


def test_older_programs_can_read_what_holds_no_alternatives(saved: Path) -> None:
    assert schema_of(saved) == 1
    assert [trace.alternatives for trace in load_traces(saved).items] == [None, None]
    save_traces(with_alternatives(None, LIKELY), saved)
    assert schema_of(saved) == 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"alternative_tokens": None}, "lacks alternative_tokens"),
        ({"alternative_counts": np.zeros(11, np.int32)}, "alternative_counts has 11 entries, not 12"),
        ({"alternative_counts": np.full(12, 1, np.int32)}, "5 and 5, and not as many as their counts"),
        ({"alternative_counts": np.array([-1, 1, 5] + [0] * 9, np.int32)}, "not as many as their counts"),
        ({"alternative_tokens": np.arange(5)}, "alternative_tokens is int64"),
        ({"alternative_tokens": np.arange(-1, 4, dtype=np.int32)}, "id of a likely token is negative"),
        ({"alternative_logprobs": np.float32([-1, -1, -1, 0.5, -1])}, "likely token is positive or not finite"),
        ({"alternative_logprobs": np.float32([-1, -1, -np.inf, -1, -1])}, "likely token is positive or not finite"),
        ({"alternative_logprobs": np.float32([-1, -0.1, -0.5, -1, -1])}, r"probability of 1\.511 together"),
        ({"alternative_logprobs": np.float32([-1, -2, -1, -1, -1])}, "not in their order"),
    ],
)
def test_damaged_alternatives_are_refused(columns: dict[str, object], message: str, saved: Path) -> None:
    save_traces(with_alternatives(LIKELY, no_alternatives(6)), saved)
    assert len(load_traces(saved).items[0].alternatives.tokens) == 5
    rewrite(saved, **columns)
    with pytest.raises(BadRequest, match=message) as error:
        load_traces(saved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("header", "columns", "message"),
    [
        ({"seed": "seven"}, {}, "malformed header"),
        ({"settings": {"temperature": -1}}, {}, "temperature must lie in"),
        ({"categories": ["code"]}, {}, "lists differ in length"),
        ({"categories": [], "prompt_tokens": [], "continuation_tokens": []}, {}, "lists differ in length"),
        ({"prompt_tokens": [6, 0]}, {}, "a trace is empty"),
        ({"prompt_tokens": [3, 4]}, {}, "prompts is int32"),
        ({}, {"top": None}, "lacks top"),
        ({}, {"logprobs": np.zeros(6)}, "logprobs is float64"),
        ({}, {"logprobs": np.full(6, np.nan, np.float32)}, "not finite"),
        ({}, {"logprobs": np.ones(6, np.float32)}, "positive"),
        ({}, {"prompts": np.full(6, -3, np.int32)}, "negative"),
    ],
)
def test_inconsistent_files_are_refused(
    header: dict[str, object], columns: dict[str, object], message: str, saved: Path
) -> None:
    rewrite(saved, header, **columns)
    with pytest.raises(BadRequest, match=message):
        load_traces(saved)


def test_other_files_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="does not exist"):
        load_traces(tmp_path / "none")
    save_file({"a": np.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(BadRequest, match="is not a traces file"):
        load_traces(tmp_path / "other.safetensors")
    saved.write_bytes(saved.read_bytes()[:-4])
    with pytest.raises(BadRequest, match="corrupt or cut short"):
        load_traces(saved)


def test_what_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadRequest, match="cannot write"):
        save_traces(make_traces(), tmp_path / "file" / "traces.safetensors")
    with pytest.raises(BadRequest, match="no traces to save"):
        save_traces(Traces((), SamplingSettings(), "target", "tokenizer", 0), tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_nothing_half_written(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()
    monkeypatch.setattr("autotune.tensor_file.save_file", full_disk)
    with pytest.raises(BadRequest, match=r"cannot write .*: No space left on device"):
        save_traces(make_traces(), saved)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    assert saved.read_bytes() == before
