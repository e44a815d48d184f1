from dataclasses import replace

import numpy as np

from autotune.alternatives import Alternatives
from autotune.proxy.lesson_digest import lesson_digest
from autotune.traces import Trace, Traces


def with_first(traces: Traces, trace: Trace) -> Traces:
    return replace(traces, items=(trace, *traces.items[1:]))


def test_whatever_a_training_learns_from_changes_the_digest(greedy_traces: Traces) -> None:
    first = greedy_traces.items[0]
    positions = len(first.top)
    alternatives = Alternatives(
        np.ones(positions, np.int32), np.zeros(positions, np.int32), np.full(positions, -0.1, np.float32)
    )
    likelier = replace(alternatives, logprobs=alternatives.logprobs / 2)
    variants = [
        greedy_traces,
        replace(greedy_traces, items=greedy_traces.items[1:]),
        with_first(greedy_traces, replace(first, continuation=first.continuation + 1)),
        with_first(greedy_traces, replace(first, top=first.top + 1)),
        with_first(
            greedy_traces,
            replace(first, prompt=first.prompt[:-1], continuation=np.append(first.prompt[-1:], first.continuation)),
        ),
        with_first(greedy_traces, replace(first, alternatives=alternatives)),
        with_first(greedy_traces, replace(first, alternatives=likelier)),
    ]
    digests = [lesson_digest(each) for each in variants]
    assert len(set(digests)) == len(variants)
    assert lesson_digest(replace(greedy_traces)) == digests[0]
