from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.alternatives import alternatives_of, padded_alternatives
from autotune.errors import BadRequest
from autotune.programs import compile_target
from autotune.runtime.session import open_session
from autotune.sampling import SamplingSettings, distribution
from autotune.targets import resolve_target
from autotune.traces import Trace, Traces, check_traces, record
from autotune.workload import PromptTokens, read_prompts, tokenize
from tests.support.markov import VOCAB, MarkovModel, markov_target, successor_table

GREEDY = SamplingSettings()
SAMPLED = SamplingSettings(temperature=0.7, top_k=6, top_p=0.9)


def prompt(*ids: int) -> PromptTokens:
    return PromptTokens(np.array(ids, np.int32), "code", "p.txt:1")


def random_table(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 2, (VOCAB, VOCAB)).astype(np.float32)


def test_greedy_traces_follow_the_arg_max() -> None:
    table = random_table()
    (trace,) = record(MarkovModel(table), markov_target(), [prompt(3, 7, 1)], GREEDY, max_new_tokens=20).items
    assert trace.prompt.tolist() == [3, 7, 1]
    assert len(trace.continuation) == 20
    assert trace.top[0] == -1
    np.testing.assert_array_equal(trace.top[1:], table.argmax(-1)[trace.tokens[:-1]])
    np.testing.assert_array_equal(trace.top[3:], trace.continuation)
    assert not trace.logprobs.any()
    assert trace.category == "code"
    assert (trace.prompt.dtype, trace.continuation.dtype, trace.top.dtype) == (np.int32,) * 3
    assert trace.logprobs.dtype == np.float32


def test_long_prompts_are_prefilled_in_pieces() -> None:
    ids = np.random.default_rng(0).integers(0, VOCAB, 200)
    model = MarkovModel(random_table())
    (trace,) = record(model, markov_target(), [prompt(*ids)], GREEDY, max_new_tokens=3).items
    assert model.widest_tokens <= 64
    np.testing.assert_array_equal(trace.top[1:], model.table.argmax(-1)[trace.tokens[:-1]])


def test_eos_ends_a_trace_and_belongs_to_it() -> None:
    target = markov_target(eos_ids=(9, 5))
    for settings in (GREEDY, SamplingSettings(1.0)):
        (trace,) = record(MarkovModel(successor_table()), target, [prompt(0, 5, 2)], settings, 50).items
        assert trace.continuation.tolist() == [3, 4, 5]
        assert len(trace.logprobs) == 3
        assert len(trace.top) == 6


@pytest.mark.parametrize(("capacity_tokens", "context_tokens"), [(10, 1000), (1000, 10)])
def test_a_trace_ends_where_the_context_does(capacity_tokens: int, context_tokens: int) -> None:
    model, target = MarkovModel(successor_table(), capacity_tokens), markov_target(context_tokens=context_tokens)
    traces = record(model, target, [prompt(1, 2), prompt(*[0] * 9)], GREEDY, max_new_tokens=50)
    assert [len(trace.tokens) for trace in traces.items] == [10, 10]
    with pytest.raises(BadRequest, match=r"prompt from p.txt:1 has 10 tokens and leaves no room in the context of 10"):
        record(model, target, [prompt(1), prompt(*[0] * 10)], GREEDY, max_new_tokens=50)


def test_nothing_to_write_is_refused() -> None:
    with pytest.raises(BadRequest, match="max_new_tokens must be at least 1"):
        record(MarkovModel(successor_table()), markov_target(), [prompt(1)], GREEDY, max_new_tokens=0)


def test_sampled_traces_carry_the_probability_they_were_drawn_with() -> None:
    table = random_table()
    (trace,) = record(MarkovModel(table), markov_target(), [prompt(3, 7, 1)], SAMPLED, max_new_tokens=200).items
    before = trace.tokens[2:-1]
    expected = np.log(distribution(table, SAMPLED)[before, trace.continuation])
    np.testing.assert_allclose(trace.logprobs, expected, rtol=1e-6)
    np.testing.assert_array_equal(trace.top[1:], table.argmax(-1)[trace.tokens[:-1]])


def test_sampled_tokens_have_the_targets_distribution() -> None:
    table, settings = random_table(), SamplingSettings(temperature=2.0, top_k=8, top_p=0.95)
    count = 4000
    traces = record(MarkovModel(table), markov_target(), [prompt(4)] * count, settings, max_new_tokens=1)
    drawn = np.bincount([trace.continuation[0] for trace in traces.items], minlength=VOCAB) / count
    expected = distribution(table[4], settings)
    assert (drawn[expected == 0] == 0).all()
    assert np.count_nonzero(expected) >= 5
    noise = np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(drawn - expected) <= 4 * noise).all()


def test_what_is_drawn_depends_on_seed_and_prompt_only() -> None:
    def continuations(prompts: list[PromptTokens], seed: int) -> list[list[int]]:
        traces = record(MarkovModel(random_table()), markov_target(), prompts, SAMPLED, 30, seed)
        return [trace.continuation.tolist() for trace in traces.items]

    one, two = prompt(1, 2, 3), prompt(3, 3)
    first, second = continuations([one, two], seed=5)
    assert continuations([two, one], seed=5) == [second, first]
    assert continuations([one, two], seed=6) != [first, second]
    again, repeated = continuations([one, one], seed=5)
    assert again == first
    assert repeated != first


@pytest.mark.parametrize(
    ("settings", "shown"), [(GREEDY, SamplingSettings(1.0)), (SamplingSettings(1.0),) * 2, (SAMPLED, SAMPLED)]
)
def test_alternatives_are_the_likeliest_of_the_workloads_own_distribution(
    settings: SamplingSettings, shown: SamplingSettings
) -> None:
    table, prompts = random_table(), [prompt(*np.random.default_rng(0).integers(0, VOCAB, 150)), prompt(3)]
    plain = record(MarkovModel(table), markov_target(), prompts, settings, 80)
    traces = record(MarkovModel(table), markov_target(), prompts, settings, 80, alternatives=True)
    for trace, bare in zip(traces.items, plain.items, strict=True):
        assert bare.alternatives is None
        for name in ("tokens", "top", "logprobs"):
            np.testing.assert_array_equal(getattr(trace, name), getattr(bare, name))
        assert trace.alternatives is not None
        assert len(trace.alternatives.counts) == len(trace.tokens)
        assert trace.alternatives.counts[0] == 0
        expected = alternatives_of(distribution(table, shown)[trace.tokens[:-1]])
        np.testing.assert_array_equal(trace.alternatives.counts[1:], expected.counts)
        np.testing.assert_array_equal(trace.alternatives.tokens, expected.tokens)
        np.testing.assert_allclose(trace.alternatives.logprobs, expected.logprobs, atol=1e-6)


def test_alternatives_of_many_positions_stay_small() -> None:
    logits = np.random.default_rng(0).normal(0, 0.1, (2, 5000)).astype(np.float32)
    flat = alternatives_of(distribution(logits, SamplingSettings(1.0)))
    kept_bytes = flat.counts.nbytes + flat.tokens.nbytes + flat.logprobs.nbytes
    assert kept_bytes / len(flat.counts) * 100_000 < 60e6, "even where nothing is likely"


def test_progress_is_told_per_prompt() -> None:
    told: list[tuple[int, int]] = []
    prompts = [prompt(1), prompt(2), prompt(3)]
    record(MarkovModel(successor_table()), markov_target(), prompts, GREEDY, 2, on_progress=lambda *a: told.append(a))
    assert told == [(1, 3), (2, 3), (3, 3)]


def trace_of(*continuation: int) -> Trace:
    ids = np.array(continuation, np.int32)
    start = np.zeros(1, np.int32)
    return Trace(start, ids, np.zeros(len(ids), np.float32), np.concatenate([start - 1, ids]), "code")


def test_loops_and_tokens_are_counted() -> None:
    loop, varied, short = trace_of(*[1, 2] * 10), trace_of(*range(12)), trace_of(1, 1)
    assert [trace.looping for trace in (loop, varied, short)] == [True, False, False]
    traces = Traces((loop, varied, short, loop), GREEDY, "target", "tokenizer", 0)
    assert traces.tokens == 20 + 12 + 2 + 20
    assert traces.looping_share == 0.5


def test_traces_of_another_target_are_refused() -> None:
    target = markov_target()
    traces = record(MarkovModel(successor_table()), target, [prompt(1)], GREEDY, 5)
    check_traces(traces, target)
    with pytest.raises(BadRequest, match="another target than fake: record them again"):
        check_traces(traces, replace(target, fingerprint="target-2"))
    with pytest.raises(BadRequest, match="another tokenizer than fake's"):
        check_traces(traces, replace(target, tokenizer_fingerprint="tokenizer-2"))
    likely = record(MarkovModel(successor_table()), target, [prompt(1)], GREEDY, 1, alternatives=True)
    few = replace(target, shape=replace(target.shape, vocab=3))
    check_traces(likely, few)
    (trace,) = likely.items
    assert trace.alternatives is not None
    wide = replace(trace.alternatives, tokens=trace.alternatives.tokens + 1)
    with pytest.raises(BadRequest, match="hold token 3, but fake has only 3 tokens"):
        check_traces(replace(likely, items=(replace(trace, alternatives=wide),)), few)
    with pytest.raises(BadRequest, match="hold token 6, but fake has only 6 tokens"):
        check_traces(traces, replace(target, shape=replace(target.shape, vocab=6)))


def test_the_demo_continues_as_in_transformers() -> None:
    import torch
    from transformers import LlamaForCausalLM

    target = resolve_target("demo")
    prompts = tokenize(read_prompts("builtin")[:4], target.open_tokenizer(), target.numerics.context_tokens)
    session = open_session(compile_target(target, "onnxruntime"), threads=1)
    traces = record(session, target, prompts, GREEDY, max_new_tokens=32)
    taught = record(session, target, prompts, GREEDY, max_new_tokens=32, alternatives=True)
    session.close()
    reference = LlamaForCausalLM.from_pretrained(target.checkpoint, dtype=torch.float32).eval()
    for trace in traces.items:
        with torch.inference_mode():
            logits = reference(torch.from_numpy(trace.tokens[None].astype(np.int64))).logits[0]
        # Arg-max of the reference given the very same prefixes: by induction its own greedy continuation.
        np.testing.assert_array_equal(trace.top[1:], logits[:-1].argmax(-1).numpy())
    # The arg-max of logits is what the program's own arg-max gives.
    for trace, other in zip(traces.items, taught.items, strict=True):
        assert other.tokens.tolist() == trace.tokens.tolist()
        assert other.top.tolist() == trace.top.tolist()
        assert other.alternatives is not None
        tokens, logprobs = padded_alternatives(other.alternatives)
        assert tokens[1:, 0].tolist() == trace.top[1:].tolist()
        assert (np.exp(logprobs[1:]).sum(-1) < 1 + 1e-6).all()
