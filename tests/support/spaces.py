"""Search spaces small enough to be listed."""

from dataclasses import replace
from itertools import product

from autotune.candidate import Build
from autotune.search_space.space import SearchSpace


def all_builds(space: SearchSpace) -> list[Build]:
    """Every build of the space."""
    vocabularies = [None if size == space.source.vocab else size for size in space.draft_vocab.values]
    axes = (space.layers.values, space.attention, space.ffn.values, space.hidden.values, vocabularies)
    shapes = [
        replace(
            space.source, layers=layers, heads=heads, kv_heads=kv_heads, ffn=ffn, hidden=hidden, draft_vocab=draft_vocab
        )
        for layers, (heads, kv_heads), ffn, hidden, draft_vocab in product(*axes)
    ]
    return [Build(shape, *program) for shape, program in product(shapes, space.programs)]
