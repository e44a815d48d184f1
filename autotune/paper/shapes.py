"""The architectures that the experiments compare."""

from collections.abc import Mapping
from dataclasses import replace

from autotune.paper.published import CONSTANT_PARAMETERS, DEPTHS, HEADS, VOCAB
from autotune.shape import DraftShape

_HEAD_DIM = 64
_LAYERS_OF_HEADS = 8
_STEP = 8


def of_equal_size(
    depths: tuple[int, ...] = DEPTHS, parameters: float = CONSTANT_PARAMETERS
) -> Mapping[str, DraftShape]:
    """Drafts of about `parameters` at these depths, by name; the shallower, the wider (LLaMA's proportions)."""
    return {f"{layers} layers": _widest(layers, parameters) for layers in depths}


def of_equal_depth(heads: tuple[int, ...] = HEADS, parameters: float = CONSTANT_PARAMETERS) -> Mapping[str, DraftShape]:
    """Drafts of about `parameters` and equal depth with these heads, by name; wider ones have a smaller FFN."""
    shapes = {}
    for count in heads:
        bare = _shape(_LAYERS_OF_HEADS, count, _STEP)
        left = (parameters - bare.parameters) / (3 * bare.hidden * _LAYERS_OF_HEADS)
        shapes[f"{count} heads"] = replace(bare, ffn=bare.ffn + max(int(left / _STEP), 0) * _STEP)
    return shapes


def shrunk(shape: DraftShape, divisor: int) -> DraftShape:
    """The shape with every width divided, its layers and heads as they are: for trying an experiment out."""
    if divisor == 1:
        return shape
    head_dim = max(shape.head_dim // divisor // 2, 1) * 2
    return replace(
        shape,
        head_dim=head_dim,
        hidden=shape.heads * head_dim,
        ffn=max(shape.ffn // divisor, 1),
        vocab=max(shape.vocab // divisor, 1),
    )


def _widest(layers: int, parameters: float) -> DraftShape:
    """The widest shape of that depth with no more than so many parameters, but at least one head."""
    heads = 1
    while _proportioned(layers, heads + 1).parameters <= parameters:
        heads += 1
    shape = _proportioned(layers, heads)
    left = (parameters - shape.parameters) / (3 * shape.hidden * layers)
    return replace(shape, ffn=shape.ffn + max(int(left / _STEP), 0) * _STEP)


def _proportioned(layers: int, heads: int) -> DraftShape:
    return _shape(layers, heads, heads * _HEAD_DIM * 8 // 3 // _STEP * _STEP)


def _shape(layers: int, heads: int, ffn: int) -> DraftShape:
    return DraftShape(layers, heads, heads, _HEAD_DIM, heads * _HEAD_DIM, ffn, VOCAB)
