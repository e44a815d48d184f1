"""A target run by transformers gives the traces that our own program does, wherever its weights are."""

from pathlib import Path

import numpy as np
import pytest

from autotune import trace_recording
from autotune.alternatives import padded_alternatives
from autotune.memory import compile_bytes
from autotune.number_formats import Precision
from autotune.programs import compile_target
from autotune.progress import LoggingObserver
from autotune.runtime.session import open_session
from autotune.sampling import SamplingSettings
from autotune.targets import Target, resolve_target
from autotune.trace_recording import open_local
from autotune.traces import record
from autotune.transformers_model import TransformersModel
from autotune.workload import PromptTokens

TOLERANCE = 2e-3


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> Target:
    return resolve_target(str(tiny_checkpoint))


def test_logits_are_those_of_our_program_after_rolling_back_too(tiny: Target) -> None:
    theirs, ours = TransformersModel(tiny, 1), open_session(compile_target(tiny, "onnxruntime"), 1)
    rng = np.random.default_rng(0)
    position = 0
    for start, count in [(0, 9), (9, 1), (10, 4), (7, 2), (9, 1), (0, 5), (3, 1)]:
        assert start <= max(position, start)
        tokens = rng.integers(0, tiny.shape.vocab, count)
        expected = ours.logits(tokens, start).copy()
        np.testing.assert_allclose(theirs.logits(tokens, start), expected, atol=TOLERANCE)
        np.testing.assert_array_equal(theirs.greedy(tokens, start), expected.argmax(-1))
        position = start + count
    with pytest.raises(ValueError, match="position 9 is behind the 4 that are cached"):
        theirs.logits([1], 9)


@pytest.mark.parametrize("settings", [SamplingSettings(), SamplingSettings(0.8, 20, 0.9)])
def test_traces_are_those_of_our_program(tiny: Target, settings: SamplingSettings) -> None:
    tokenizer = tiny.open_tokenizer()
    ids = [tokenizer.encode(text) for text in ("def add(a, b):\n", "return a + b", "class Point:")]
    short = [PromptTokens(np.array(prompt, np.int32), "code", "here") for prompt in ids]
    theirs = record(TransformersModel(tiny, 1), tiny, short, settings, 12, alternatives=True)
    ours = record(open_session(compile_target(tiny, "onnxruntime"), 1), tiny, short, settings, 12, alternatives=True)
    for there, here in zip(theirs.items, ours.items, strict=True):
        assert there.tokens.tolist() == here.tokens.tolist()
        assert there.top.tolist() == here.top.tolist()
        np.testing.assert_allclose(there.logprobs, here.logprobs, atol=TOLERANCE)
        assert there.alternatives is not None
        assert here.alternatives is not None
        (_, far), (_, near) = padded_alternatives(there.alternatives, 3), padded_alternatives(here.alternatives, 3)
        np.testing.assert_allclose(far, near, atol=TOLERANCE)


def test_what_does_not_fit_is_read_from_disk(tiny: Target) -> None:
    whole, dealt = TransformersModel(tiny, 1), TransformersModel(tiny, 1, {"cpu": 60_000})
    assert whole.devices == ("cpu",)
    assert "disk" in dealt.devices
    tokens = np.arange(1, 20)
    np.testing.assert_allclose(dealt.logits(tokens, 0), whole.logits(tokens, 0), atol=1e-5)


class Notes(LoggingObserver):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def test_a_target_too_big_for_our_program_runs_in_transformers(tiny: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    assert open_local(tiny, None, 1, notes).program.backend == "onnxruntime"
    assert not notes.lines
    needed = compile_bytes(tiny.shape, Precision.FP32, tiny.numerics.context_tokens)
    monkeypatch.setattr(trace_recording, "available_bytes", lambda: needed - 1)
    assert open_local(tiny, None, 1, notes).program.backend == "transformers"
    (note,) = notes.lines
    assert "runs in transformers: compiling it takes" in note
    assert open_local(tiny, "autotune", 1, notes).program.backend == "onnxruntime"
