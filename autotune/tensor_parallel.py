"""A model whose layers are split over several devices: what one of them computes, and what they cost together.

Split as Megatron-LM does: heads, FFN and the head's rows are dealt out; every device adds its share of a layer's two
residual terms, which an all-reduce of `[n, hidden]` sums.  The table of embeddings is on every device.
"""

from dataclasses import dataclass, replace

from autotune.errors import BadRequest
from autotune.shape import DraftShape

COLLECTIVES_PER_LAYER = 2
OUTER_COLLECTIVES = 1
"""The devices' parts of the head must find the arg-max, or gather their logits; counted as one more all-reduce."""


@dataclass(frozen=True)
class TensorParallel:
    """Over how many devices a target is split, and the seconds of one all-reduce of `[n, hidden]` among them."""

    degree: int = 1
    collective_s: float = 0.0

    def collectives_s(self, layers: int) -> float:
        """Seconds of all collectives of one verification; 0 on a single device."""
        return (COLLECTIVES_PER_LAYER * layers + OUTER_COLLECTIVES) * self.collective_s if self.degree > 1 else 0.0


def shard(shape: DraftShape, degree: int) -> DraftShape:
    """What each of `degree` devices holds of a model; BadRequest if its parts cannot be dealt out evenly.

    Key/value heads are replicated where there are fewer of them than devices.
    """
    if degree == 1:
        return shape
    if degree < 1:
        raise BadRequest(f"--target-tp {degree}: at least one device is needed")
    if shape.draft_vocab is not None:
        raise BadRequest(f"--target-tp {degree}: a model with a trimmed head cannot be split")
    for name, count in (("heads", shape.heads), ("FFN channels", shape.ffn), ("vocabulary entries", shape.vocab)):
        if count % degree:
            raise BadRequest(f"--target-tp {degree}: the target's {count} {name} cannot be split evenly")
    if shape.kv_heads % degree and degree % shape.kv_heads:
        raise BadRequest(f"--target-tp {degree}: the target's {shape.kv_heads} kv heads cannot be split evenly")
    return replace(
        shape,
        heads=shape.heads // degree,
        kv_heads=max(shape.kv_heads // degree, 1),
        ffn=shape.ffn // degree,
        draft_vocab=shape.vocab // degree,
    )
