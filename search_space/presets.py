"""Default axes for a source, when the user names none."""

from autotune.candidate import DraftShape

_MOST_LAYERS = 12
_STEPS = 8
_ALIGNMENT = 32
_LARGE_VOCAB = 32_000
_HEAD_ALIGNMENT = 64


def default_layers(source: DraftShape) -> tuple[int, ...]:
    """1 … the source's depth, but at most 12: a draft deeper than that cannot be fast enough."""
    return tuple(range(1, min(source.layers, _MOST_LAYERS) + 1))


def default_attention(source: DraftShape) -> tuple[tuple[int, int], ...]:
    """(heads, kv_heads) for a quarter, a half, three quarters and all of the source's kv groups, at full group size."""
    group = source.heads // source.kv_heads
    counts = sorted({max(1, source.kv_heads * quarter // 4) for quarter in (1, 2, 3, 4)})
    return tuple((count * group, count) for count in counts)


def default_ffn(source: DraftShape) -> tuple[int, ...]:
    """About eight even steps up to the source's FFN size, in multiples of 32 where those divide it."""
    steps = [
        step
        for step in range(_ALIGNMENT, max(source.ffn // _STEPS, _ALIGNMENT) + 1, _ALIGNMENT)
        if source.ffn % step == 0
    ]
    if steps:
        return tuple(range(steps[-1], source.ffn + 1, steps[-1]))
    return tuple(sorted({max(1, source.ffn * part // _STEPS) for part in range(1, _STEPS + 1)}))


def default_hidden(source: DraftShape) -> tuple[int, ...]:
    """The source's width alone: narrowing the residual stream costs far more acceptance than latency."""
    return (source.hidden,)


def default_draft_vocab(source: DraftShape) -> tuple[int, ...]:
    """All of the vocabulary and, of one of 32,000 tokens or more, the most frequent quarter too.

    Of what a draft of one layer reads for a token, the head is then 39 % (NoFT-Wide-290M, 32,000 tokens) or more, and a
    quarter of a head of 128,256 tokens made EAGLE-2 1.12 times as fast (Zhao et al. 2502.14856).
    """
    quarter = source.vocab // 4 // _HEAD_ALIGNMENT * _HEAD_ALIGNMENT
    return (quarter, source.vocab) if source.vocab >= _LARGE_VOCAB else (source.vocab,)
