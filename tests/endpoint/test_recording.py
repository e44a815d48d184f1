"""What is recorded from servers of every kind."""

from typing import Any

import numpy as np
import pytest

from autotune.alternatives import alternatives_of, padded_alternatives
from autotune.candidate import Precision
from autotune.errors import BadRequest
from autotune.program import Program
from autotune.sampling import SamplingSettings, distribution
from autotune.targets import Target
from autotune.traces import record
from tests.support.fake_endpoint import FakeServer, Fault, Script, serving
from tests.support.recordings import FILTERED, GREEDY, NEW, PLAIN, WARM, prompts, recorded


class TableModel:
    """The fake server's model, for our own recording."""

    def __init__(self, server: FakeServer, target: Target) -> None:
        self.table = server.table
        self.program = Program("fake", "cpu", Precision.FP32, target.shape, target.numerics, 64)

    def logits(self, tokens: Any, start: int) -> Any:
        return self.table[np.asarray(tokens)]

    def greedy(self, tokens: Any, start: int) -> Any:
        return self.logits(tokens, start).argmax(-1)


@pytest.mark.parametrize("style", ["vllm", "vllm-old", "sglang", "llama"])
@pytest.mark.parametrize("tokenize", [True, False])
def test_greedy_traces_equal_our_own(target: Target, style: str, tokenize: bool) -> None:
    with serving(target, Script(style, tokenize=tokenize)) as server:
        served = recorded(server, target)
    ours = record(TableModel(server, target), target, prompts(target), GREEDY, NEW)
    assert (served.settings, served.seed) == (ours.settings, ours.seed)
    assert served.target_fingerprint == target.fingerprint
    for there, here in zip(served.items, ours.items, strict=True):
        assert there.tokens.tolist() == here.tokens.tolist()
        assert there.category == here.category
        assert not there.logprobs.any()
        known = there.top if style.startswith("vllm") else there.top[len(there.prompt) :]
        np.testing.assert_array_equal(known, here.top[-len(known) :])
        if not style.startswith("vllm"):
            assert set(there.top[: len(there.prompt)].tolist()) == {-1}
        assert there.top.dtype == there.continuation.dtype == np.int32


@pytest.mark.parametrize(
    ("style", "kind", "settings"),
    [
        ("vllm", "raw", PLAIN),
        ("vllm", "processed", WARM),
        ("vllm-old", "processed", FILTERED),
        ("sglang", "temperature", WARM),
        ("llama", "", WARM),
        ("llama", "", FILTERED),
    ],
)
def test_sampled_traces_carry_the_probability_they_were_drawn_with(
    target: Target, style: str, kind: str, settings: SamplingSettings
) -> None:
    with serving(target, Script(style, kind)) as server:
        served = recorded(server, target, settings)
    for trace in served.items:
        before = trace.tokens[len(trace.prompt) - 1 : -1]
        expected = np.log(distribution(server.table, settings)[before, trace.continuation])
        np.testing.assert_allclose(trace.logprobs, expected, atol=1e-5)
    assert len({tuple(trace.continuation.tolist()) for trace in served.items}) > 1


@pytest.mark.parametrize(
    ("style", "kind", "settings"),
    [
        ("vllm", "raw", GREEDY),
        ("vllm-old", "raw", GREEDY),
        ("vllm", "raw", PLAIN),
        ("vllm", "processed", FILTERED),
        ("sglang", "raw", GREEDY),
        ("llama", "", GREEDY),
        ("llama", "", WARM),
        ("llama", "", FILTERED),
    ],
)
def test_alternatives_are_the_likeliest_of_our_own_distribution(
    target: Target, style: str, kind: str, settings: SamplingSettings
) -> None:
    with serving(target, Script(style, kind, most_logprobs=20)) as server:
        server.table *= 2.0
        served = recorded(server, target, settings, alternatives=True)
    shown = PLAIN if settings.greedy else settings
    for trace in served.items:
        assert trace.alternatives is not None
        counts = trace.alternatives.counts
        assert counts.max() <= 20
        ends = counts.cumsum()
        best = alternatives_of(distribution(server.table, shown)[trace.tokens[:-1]])
        expected, expected_logprobs = padded_alternatives(best, 20)
        of_prompt = settings.greedy and style.startswith("vllm")
        assert counts[0] == 0
        for place in range(1, len(counts)):
            kept = slice(ends[place] - counts[place], ends[place])
            wanted = min(best.counts[place - 1], 20)
            if place < len(trace.prompt) and not of_prompt:
                assert counts[place] == 0
            elif style == "sglang":  # fewer, where several tokens have one text
                assert counts[place] <= wanted
            else:
                assert counts[place] == wanted
            np.testing.assert_array_equal(trace.alternatives.tokens[kept], expected[place - 1, : counts[place]])
            np.testing.assert_allclose(
                trace.alternatives.logprobs[kept], expected_logprobs[place - 1, : counts[place]], atol=1e-5
            )
    assert max(trace.alternatives.counts.max() for trace in served.items if trace.alternatives) >= 2


@pytest.mark.parametrize("most", [100, 64, 20, 7, 5, 1])
def test_as_many_are_asked_for_as_the_server_gives(target: Target, most: int) -> None:
    with serving(target, Script(most_logprobs=most)) as server:
        served = recorded(server, target, alternatives=True)
        asked = {body["logprobs"] for body in server.bodies if body["max_tokens"] == NEW}
        limit = max(step for step in (1, 5, 20, 64) if step <= most)
        assert asked == {limit}
        bodies = len(server.bodies)
        again = recorded(server, target, alternatives=True)
        assert len(server.bodies) == bodies, "what is kept has its alternatives"
        plain = recorded(server, target)
        assert len(server.bodies) > bodies
    counts = np.concatenate([trace.alternatives.counts for trace in served.items])
    assert counts.max() == limit
    for first, second, bare in zip(served.items, again.items, plain.items, strict=True):
        assert bare.alternatives is None
        assert bare.tokens.tolist() == first.tokens.tolist()
        for name, array in vars(first.alternatives).items():
            np.testing.assert_array_equal(getattr(second.alternatives, name), array)


def test_other_refusals_are_told_as_they_are(target: Target) -> None:
    def refuse(count: int, body: dict[str, Any]) -> Fault | None:
        return Fault(402, b'{"error": "no credit"}') if body["logprobs"] > 1 else None

    with serving(target, Script(fault=refuse)) as server, pytest.raises(BadRequest, match=r"HTTP 402: no credit"):
        recorded(server, target, alternatives=True)


def test_a_server_that_ranks_nothing_gives_no_alternatives(target: Target) -> None:
    def bare(answer: dict[str, Any]) -> None:
        answer["choices"][0]["logprobs"]["top_logprobs"] = None
        answer["choices"][0].pop("prompt_logprobs", None)

    with serving(target, Script(change=bare)) as server:
        served = recorded(server, target, alternatives=True)
    assert all(trace.alternatives is None for trace in served.items)


def test_impossible_probabilities_are_refused(target: Target) -> None:
    def inflate(answer: dict[str, Any]) -> None:
        for ranked in answer["choices"][0]["logprobs"]["top_logprobs"]:
            ranked.update(dict.fromkeys(ranked, -0.5))

    with (
        serving(target, Script(change=inflate)) as server,
        pytest.raises(BadRequest, match=r"log-probabilities cannot be right: .* have a probability of .* together"),
    ):
        recorded(server, target, PLAIN, alternatives=True)


@pytest.mark.parametrize(
    ("style", "kind", "settings", "message"),
    [
        ("vllm", "raw", WARM, "at temperature 1, not those it draws with: start vLLM with --logprobs-mode processed"),
        ("vllm", "raw", SamplingSettings(1.0, top_k=5), "before top-k and top-p"),
        ("sglang", "temperature", FILTERED, "before top-k and top-p"),
        ("sglang", "raw", WARM, "SGLANG_RETURN_ORIGINAL_LOGPROB"),
    ],
)
def test_probabilities_of_another_distribution_are_refused(
    target: Target, style: str, kind: str, settings: SamplingSettings, message: str
) -> None:
    with serving(target, Script(style, kind)) as server, pytest.raises(BadRequest, match=message):
        recorded(server, target, settings)


def test_a_repeated_prompt_has_luck_of_its_own_and_an_eos_ends_a_trace(target: Target) -> None:
    asked = prompts(target, 1) * 30
    with serving(target) as server:
        server.table[:, target.eos_ids[0]] += 3.0
        served = recorded(server, target, PLAIN, prompts=asked)
        assert len(server.bodies) == 30
    assert len({tuple(trace.continuation.tolist()) for trace in served.items}) > 10
    for trace in served.items:
        assert target.eos_ids[0] not in trace.continuation[:-1]
    assert any(trace.continuation[-1] == target.eos_ids[0] for trace in served.items)
