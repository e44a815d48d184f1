from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.alternatives import Alternatives
from autotune.proxy.batches import IGNORED, Batches, labels_of
from autotune.proxy.holdout import split_held_out
from autotune.sampling import SamplingSettings
from autotune.traces import Trace, Traces

GREEDY, SAMPLED = SamplingSettings(), SamplingSettings(temperature=0.7)


def a_trace(prompt: int, continuation: int, first: int = 1) -> Trace:
    """Consecutive token ids, of which the target would have predicted the next hundred."""
    tokens = np.arange(first, first + prompt + continuation, dtype=np.int32)
    top = np.concatenate([[-1], tokens[1:] + 100]).astype(np.int32)
    return Trace(tokens[:prompt], tokens[prompt:], np.zeros(continuation, np.float32), top, "code")


def test_greedy_labels_are_the_targets_arg_max_everywhere() -> None:
    assert labels_of(a_trace(3, 2), GREEDY).tolist() == [102, 103, 104, 105, IGNORED]


def test_sampled_labels_are_the_continuation() -> None:
    assert labels_of(a_trace(3, 2), SAMPLED).tolist() == [IGNORED, IGNORED, 4, 5, IGNORED]


@given(
    sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=20),
    batch_tokens=st.integers(32, 600),
    seed=st.integers(0, 5),
)
@settings(max_examples=50, deadline=None)
def test_an_epoch_holds_every_sequence_once_within_the_limit(
    sizes: list[tuple[int, int]], batch_tokens: int, seed: int
) -> None:
    traces = [a_trace(*size, first=1 + 1000 * index) for index, size in enumerate(sizes)]
    batches = Batches(traces, GREEDY, batch_tokens, seed)
    seen: list[int] = []
    step = 0
    while len(seen) < len(traces):
        batch = batches.at(step)
        assert len(batch.tokens) == 1 or batch.tokens.numel() <= batch_tokens
        for tokens, labels in zip(batch.tokens.numpy(), batch.labels.numpy(), strict=True):
            index = int(tokens[0]) // 1000
            length = sum(sizes[index])
            assert tokens[:length].tolist() == traces[index].tokens.tolist()
            assert labels[:length].tolist() == labels_of(traces[index], GREEDY).tolist()
            assert (labels[length:] == IGNORED).all()
            seen.append(index)
        step += 1
    assert sorted(seen) == list(range(len(traces)))


def test_a_step_has_the_same_batch_whatever_was_asked_before() -> None:
    traces = [a_trace(5, 10 + index) for index in range(12)]
    one, other = (Batches(traces, GREEDY, 64, seed=3) for _ in range(2))
    sequence = [one.at(step).tokens for step in range(20)]
    assert np.array_equal(other.at(17).tokens, sequence[17])
    assert any(not np.array_equal(a, b) for a, b in zip(sequence, sequence[6:], strict=False))


def test_held_out_texts_are_seen_by_no_training() -> None:
    # Of 20 texts, each has a greedy trace, a longer cut of the same prompt, and a sampled continuation.
    items = []
    for text in range(20):
        whole = a_trace(20, 6, first=1000 * text)
        greedy = replace(whole, top=np.concatenate([[-1], whole.tokens[1:]]).astype(np.int32))
        items += [greedy, replace(greedy, prompt=greedy.prompt[:12], continuation=greedy.tokens[12:]), whole]
    learned, judged = split_held_out(Traces(tuple(items), GREEDY, "t", "t", 0))
    texts = [{int(trace.prompt[0]) for trace in part.items} for part in (learned, judged)]
    assert not texts[0] & texts[1]
    assert len(texts[0]) == 18
    assert len(learned.items) == 54
    # Judged is what a greedy workload would write: the sampled continuations are left out.
    assert len(judged.items) == 4
    _, judged = split_held_out(Traces(tuple(items), SAMPLED, "t", "t", 0))
    assert len(judged.items) == 6


def test_a_single_text_is_learned_from_and_judged_by() -> None:
    learned, judged = split_held_out(Traces((a_trace(20, 5), a_trace(20, 9)), GREEDY, "t", "t", 0))
    assert len(learned.items) == len(judged.items) == 2


def test_unknown_most_likely_tokens_carry_no_loss() -> None:
    prompt, continuation = np.array([5, 6, 7], np.int32), np.array([8, 9], np.int32)
    trace = Trace(prompt, continuation, np.zeros(2, np.float32), np.array([-1, -1, 4, 8, 9], np.int32), "")
    assert labels_of(trace, SamplingSettings()).tolist() == [IGNORED, 4, 8, 9, IGNORED]


def with_alternatives(trace: Trace, seed: int) -> Trace:
    """The trace with 0 … 4 alternatives at each position, none at the first."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, len(trace.tokens)).astype(np.int32)
    counts[0] = 0
    tokens = rng.integers(0, 500, counts.sum()).astype(np.int32)
    return replace(
        trace, alternatives=Alternatives(counts, tokens, np.log(rng.random(counts.sum())).astype(np.float32))
    )


def test_batches_hold_the_alternatives_of_what_comes_behind_each_token() -> None:
    bare = [a_trace(5, 10 + index, first=1 + 1000 * index) for index in range(6)]
    traces = [with_alternatives(trace, index) if index % 3 else trace for index, trace in enumerate(bare)]
    batches = Batches(traces, SAMPLED, 64, seed=3)
    seen: set[int] = set()
    for step in range(4):
        batch = batches.at(step)
        if batch.alternatives is None or batch.logprobs is None:
            continue
        for row, tokens in enumerate(batch.tokens.numpy()):
            index = int(tokens[0]) // 1000
            kept = traces[index].alternatives
            ends = np.zeros(1, int) if kept is None else kept.counts.cumsum()
            for place in range(len(tokens)):
                here = batch.alternatives[row, place].numpy(), batch.logprobs[row, place].numpy()
                known = kept is not None and place + 1 < len(traces[index].tokens)
                count = int(kept.counts[place + 1]) if known and kept is not None else 0
                assert (here[0][count:] == -1).all()
                assert (here[1][count:] == -np.inf).all()
                if count and kept is not None:
                    seen.add(index)
                    own = slice(ends[place + 1] - count, ends[place + 1])
                    assert here[0][:count].tolist() == kept.tokens[own].tolist()
                    assert here[1][:count].tolist() == kept.logprobs[own].tolist()
    assert seen == {1, 2, 4, 5}


def test_batches_of_traces_without_alternatives_carry_none() -> None:
    batch = Batches([a_trace(3, 2)], GREEDY, 64, seed=0).at(0)
    assert batch.alternatives is None
    assert batch.logprobs is None
