"""The tenth of the training traces that no training sees, to judge whether a training helped."""

from collections import defaultdict
from dataclasses import replace

import numpy as np

from autotune.traces import Trace, Traces

_EVERY = 10
_START_TOKENS = 8
"""Traces that begin with the same tokens continue the same text and stay on the same side."""


def split_held_out(traces: Traces) -> tuple[Traces, Traces]:
    """The traces to learn from, and those to judge by: every tenth text, and of it only what the workload would write.

    If there is but one text, it serves both purposes.
    """
    texts: dict[bytes, list[Trace]] = defaultdict(list)
    for trace in traces.items:
        texts[trace.tokens[:_START_TOKENS].tobytes()].append(trace)
    groups = list(texts.values())
    held = [trace for group in groups[::_EVERY] for trace in group]
    learned = [trace for index, group in enumerate(groups) if index % _EVERY for trace in group] or held
    judged = [trace for trace in held if not traces.settings.greedy or _is_greedy(trace)] or held
    return replace(traces, items=tuple(learned)), replace(traces, items=tuple(judged))


def _is_greedy(trace: Trace) -> bool:
    """Whether every token of the continuation is the target's most likely one."""
    return np.array_equal(trace.continuation, trace.top[len(trace.prompt) :])
