"""Which kind of units each axis of a weight counts: what pruning, ordering and slicing take from it (stdlib only)."""

from enum import StrEnum

from autotune.shape import Style


class Unit(StrEnum):
    """What one step along an axis is."""

    HIDDEN = "hidden"
    """A dimension of the residual stream."""
    QUERY = "query"
    """A dimension of a query head: head by head, those of one kv head together."""
    KEY_VALUE = "key/value"
    """A dimension of a key/value head, head by head."""
    CHANNEL = "channel"
    """A channel of the FFN."""
    FIXED = "fixed"
    """What drafts never have fewer of: tokens, positions, a head's own dimensions, the width of projected tables."""


_AXES = {
    "attn.norm": (Unit.HIDDEN,),
    "attn.q": (Unit.QUERY, Unit.HIDDEN),
    "attn.k": (Unit.KEY_VALUE, Unit.HIDDEN),
    "attn.v": (Unit.KEY_VALUE, Unit.HIDDEN),
    "attn.q_norm": (Unit.FIXED,),
    "attn.k_norm": (Unit.FIXED,),
    "attn.o": (Unit.HIDDEN, Unit.QUERY),
    "ffn.norm": (Unit.HIDDEN,),
    "ffn.gate": (Unit.CHANNEL, Unit.HIDDEN),
    "ffn.up": (Unit.CHANNEL, Unit.HIDDEN),
    "ffn.down": (Unit.HIDDEN, Unit.CHANNEL),
    "embed.project": (Unit.HIDDEN, Unit.FIXED),
    "positions": (Unit.FIXED, Unit.HIDDEN),
    "norm": (Unit.HIDDEN,),
    "head.project": (Unit.FIXED, Unit.HIDDEN),
}


def unit_axes(name: str, style: Style) -> tuple[Unit, ...]:
    """The kind of units along each axis of the weight of that canonical name, without the layer."""
    if name in ("embed", "head"):
        return (Unit.FIXED, Unit.FIXED if style.embed_dim else Unit.HIDDEN)
    if name.endswith(".bias"):
        return _AXES[name.removesuffix(".bias")][:1]
    return _AXES[name]
