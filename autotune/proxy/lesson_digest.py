"""A digest of what trainings learn from, so that no other training's results are taken up."""

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from autotune.digests import digest_of
from autotune.traces import Traces


def lesson_digest(traces: Traces) -> str:
    """A hash of all that a training can learn of traces: tokens, likeliest tokens and alternatives."""

    def arrays() -> Iterator[NDArray[Any]]:
        for trace in traces.items:
            yield from (trace.prompt, trace.continuation, trace.top)
            if trace.alternatives is not None:
                yield from (trace.alternatives.counts, trace.alternatives.tokens, trace.alternatives.logprobs)

    return digest_of(arrays())
