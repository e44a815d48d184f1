"""Which draft of the demo family stands in for a draft that nobody can run (stdlib only).

What this is worth: it is a placeholder that has the right shape, and no more.  Where there are neither weights nor
traces of a target, nothing is known of how often its drafts would be accepted.  The demo family's drafts of the same
relative size at least lose acceptance in the same direction: fewer layers, heads, channels or dimensions of the source
accept less.  By how much, and from where, is the demo's and says nothing about the target: another size, another
tokenizer, other text.  So every number that comes of it carries the evidence `stand-in`, and nothing may be decided by
it that a break-even cannot show too.
"""

from dataclasses import replace

from autotune.candidate import DraftShape


def relative_shape(shape: DraftShape, source: DraftShape, family: DraftShape) -> DraftShape:
    """The shape that is to `family` (the stand-in's source) what `shape` is to `source`.

    Every axis keeps its share of the source, rounded to what there is: at least one, at most all of `family`.  An axis
    that is larger than the source's counts as all of it.  Key/value heads and the query heads of each keep their shares
    apart, unless the family's heads are not grouped: then the share of all query heads decides.  A trimmed vocabulary
    keeps its share of the tokens; one too close to the whole stays trimmed by one token.
    """
    group, source_group, family_group = (each.heads // each.kv_heads for each in (shape, source, family))
    if family_group == 1:
        kv_heads, kept_group = _share(shape.heads, source.heads, family.heads), 1
    else:
        kv_heads = _share(shape.kv_heads, source.kv_heads, family.kv_heads)
        kept_group = _share(group, source_group, family_group)
    return replace(
        family,
        layers=_share(shape.layers, source.layers, family.layers),
        heads=kv_heads * kept_group,
        kv_heads=kv_heads,
        ffn=_share(shape.ffn, source.ffn, family.ffn),
        hidden=_share(shape.hidden, source.hidden, family.hidden),
        draft_vocab=_trimmed_vocab(shape, source, family),
    )


def _share(count: int, total: int, available: int) -> int:
    """The same share of `available` as `count` is of `total`: the nearest number from 1 to `available`."""
    nearest = (2 * count * available + total) // (2 * total)
    return min(max(nearest, 1), available)


def _trimmed_vocab(shape: DraftShape, source: DraftShape, family: DraftShape) -> int | None:
    """Tokens of the trimmed head; None where there is nothing to trim."""
    if shape.draft_vocab is None or family.vocab == 1:
        return None
    return min(_share(shape.draft_vocab, source.vocab, family.vocab), family.vocab - 1)
