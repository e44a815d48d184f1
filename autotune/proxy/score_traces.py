"""How often a draft would be accepted: one teacher-forced pass over recorded traces."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.acceptance import Vector, acceptance_probabilities
from autotune.errors import AutotuneError
from autotune.number_formats import Precision
from autotune.proxy.network import (
    Network,
    Rotation,
    embedded,
    for_head,
    head_logits,
    rotation_of,
    shared_tensors,
    through_layer,
)
from autotune.proxy.training import torch_threads
from autotune.quantization import as_stored
from autotune.sampling import SamplingSettings, distribution
from autotune.shape import layer_weight_shapes, outer_weight_shapes
from autotune.traces import Trace, Traces
from autotune.weights import ModelWeights

Rows = NDArray[np.int64]

_LAST = frozenset({"norm", "norm.bias", "head.project", "head"})
"""Outer weights that come behind the layers; the others come before them."""

_Passing = tuple[Tensor, Rotation | None]
"""A batch's residual stream on its way through the layers, and the rotations of its positions."""

_BATCH_TOKENS = 2048
"""Padded tokens computed at once: large enough for efficient products, small enough to stay in the caches."""


class NotANumber(AutotuneError):
    """A draft's logits are NaN or infinite; such a candidate is rejected."""


def acceptance_of(
    weights: ModelWeights, traces: Traces, *, precision: Precision = Precision.FP32, threads: int = 1
) -> list[Vector]:
    """r_t `[T]` of every trace: the probability that the draft's token at each place is accepted.

    The draft computes with what `precision` makes of its weights.  All traces go through one layer after another, so
    that beside the draft itself no more than a layer, or a table, of such weights is in memory.

    Greedy: [arg-max q == y_t]; sampled: min(1, q(y_t) / p(y_t)), both given the true prefix.  A trimmed draft's q is a
    distribution over the tokens of its head, which is what it drafts from, and 0 elsewhere.  Raises NotANumber.
    """
    rows, batches = _rows_of_tokens(weights), list(_by_length(traces.items))
    result: list[Vector] = [np.empty(0)] * len(traces.items)
    with torch_threads(threads), torch.inference_mode():
        # The last token is never an input: nothing after it is to be predicted.
        streams = _streams(weights, precision, [_pad([traces.items[member] for member in each]) for each in batches])
        last = _stored(weights, precision, _LAST & outer_weight_shapes(weights.shape).keys())
        for members, stream in zip(batches, streams, strict=True):
            for member, states in zip(members, for_head(last.view(), stream), strict=True):
                trace = traces.items[member]
                first = len(trace.prompt) - 1
                logits = head_logits(last, states[first : first + len(trace.continuation)])
                result[member] = _trace_acceptance(logits, rows[trace.continuation], trace, traces.settings)
    return result


def mean_acceptance(weights: ModelWeights, traces: Traces, threads: int = 1) -> float:
    """The mean of `acceptance_of` over all tokens of all traces."""
    return float(np.concatenate(acceptance_of(weights, traces, threads=threads)).mean())


def _streams(weights: ModelWeights, precision: Precision, batches: Sequence[Tensor]) -> list[Tensor]:
    """The residual streams `[traces, length, hidden]` behind the last layer, of each batch `[traces, length]`."""
    passing = _embedded(weights, precision, batches)
    for index in range(weights.shape.layers):
        passing = _through_layer(weights, precision, index, passing)
    return [stream for stream, _ in passing]


def _embedded(weights: ModelWeights, precision: Precision, batches: Sequence[Tensor]) -> list[_Passing]:
    first = _stored(weights, precision, outer_weight_shapes(weights.shape).keys() - _LAST)
    return [(embedded(first.view(), tokens), rotation_of(first, tokens.shape[1])) for tokens in batches]


def _through_layer(weights: ModelWeights, precision: Precision, index: int, passing: list[_Passing]) -> list[_Passing]:
    names = [f"layers.{index}.{name}" for name in layer_weight_shapes(weights.shape)]
    view = _stored(weights, precision, names).view()
    return [(through_layer(view, index, stream, rotation), rotation) for stream, rotation in passing]


def _stored(weights: ModelWeights, precision: Precision, names: Iterable[str]) -> Network:
    """The network with only these of its weights, as they are stored at that precision."""
    arrays = ((name, as_stored(name, weights.arrays[name], precision)) for name in names)
    return Network(weights.shape, weights.numerics, shared_tensors(arrays), weights.token_ids)


def _rows_of_tokens(weights: ModelWeights) -> Rows:
    """`[vocab]` the row of the head that stands for each token; -1 for a token that a trimmed head lacks."""
    if weights.token_ids is None:
        return np.arange(weights.shape.vocab)
    rows = np.full(weights.shape.vocab, -1)
    rows[weights.token_ids] = np.arange(len(weights.token_ids))
    return rows


def _trace_acceptance(logits: Tensor, own_rows: Rows, trace: Trace, settings: SamplingSettings) -> Vector:
    """r_t `[T]` from the draft's logits `[T, head_rows]` at the continuation's places.

    own_rows: `[T]` the head's row of each of the trace's own tokens, -1 for those it lacks.
    """
    best, arg_max = logits.max(dim=-1)
    if not torch.isfinite(logits.sum(dim=-1) + best).all():
        raise NotANumber("the draft's logits are NaN or infinite")
    if settings.greedy:
        agrees: Vector = (arg_max.numpy() == own_rows).astype(np.float64)
        return agrees
    probabilities = distribution(logits.numpy(), settings)
    own = np.where(own_rows < 0, 0.0, probabilities[np.arange(len(own_rows)), own_rows])
    with np.errstate(divide="ignore"):  # a token the draft never draws has log-probability -inf
        return acceptance_probabilities(np.log(own), trace.logprobs)


def _by_length(traces: Sequence[Trace]) -> Iterator[NDArray[np.int64]]:
    """Indices of traces of similar length, a batch at a time."""
    lengths = np.array([len(trace.prompt) + len(trace.continuation) for trace in traces])
    order = np.argsort(lengths, kind="stable")
    begin = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end - begin + 1) * lengths[order[end]] > _BATCH_TOKENS:
            yield order[begin:end]
            begin = end


def _pad(traces: Sequence[Trace]) -> Tensor:
    """Inputs `[traces, length]`: every prompt and continuation without the last token, padded on the right."""
    rows = [np.concatenate([trace.prompt, trace.continuation[:-1]]) for trace in traces]
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for row, values in zip(tokens, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(tokens)
