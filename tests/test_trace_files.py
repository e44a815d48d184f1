import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors import safe_open
from safetensors.numpy import save_file

from autotune.errors import BadRequest
from autotune.sampling import SamplingSettings
from autotune.trace_files import load_traces, save_traces
from autotune.traces import Trace, Traces


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


def test_newer_schemas_are_refused(saved: Path) -> None:
    rewrite(saved, {"schema_version": 2})
    with pytest.raises(BadRequest, match="has schema 2, newer than the 1 known here: upgrade"):
        load_traces(saved)


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
