import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.candidate import DraftShape
from autotune.proxy.stand_in import relative_shape
from autotune.proxy.units import check_inside

LLAMA_65B = DraftShape(layers=80, heads=64, kv_heads=64, head_dim=128, hidden=8192, ffn=22016, vocab=32000)
LLAMA_3_70B = replace(LLAMA_65B, kv_heads=8, ffn=28672, vocab=128256)
DEMO = DraftShape(layers=8, heads=4, kv_heads=4, head_dim=32, hidden=128, ffn=352, vocab=2048)
GROUPED = replace(DEMO, heads=12, kv_heads=3)

sizes = st.builds(
    lambda layers, kv_heads, group, hidden, ffn, vocab: DraftShape(
        layers, kv_heads * group, kv_heads, 64, hidden, ffn, vocab
    ),
    *(st.integers(1, most) for most in (100, 16, 9, 9000, 30000, 200000)),
)


@st.composite
def nested(draw: st.DrawFn) -> tuple[DraftShape, DraftShape, DraftShape]:
    """A source, a shape inside it, and a shape inside that one."""
    source = draw(sizes)
    shapes = [source]
    for _ in range(2):
        outer = shapes[-1]
        kv_heads = draw(st.integers(1, outer.kv_heads))
        group = draw(st.integers(1, outer.heads // outer.kv_heads))
        rows = draw(st.integers(1, outer.head_rows))
        axes = {name: draw(st.integers(1, getattr(outer, name))) for name in ("layers", "hidden", "ffn")}
        trimmed = rows if rows < source.vocab else None
        shapes.append(replace(source, heads=kv_heads * group, kv_heads=kv_heads, draft_vocab=trimmed, **axes))
    return shapes[0], shapes[1], shapes[2]


families = st.one_of(sizes, st.sampled_from([DEMO, GROUPED]))


@given(shapes=nested(), family=families)
def test_a_smaller_draft_has_no_larger_stand_in(
    shapes: tuple[DraftShape, DraftShape, DraftShape], family: DraftShape
) -> None:
    source, outer, inner = shapes
    large, small = (relative_shape(shape, source, family) for shape in (outer, inner))
    for name in ("layers", "kv_heads", "heads", "ffn", "hidden", "head_rows"):
        assert getattr(small, name) <= getattr(large, name), name
    assert small.heads // small.kv_heads <= large.heads // large.kv_heads


@given(source=sizes, family=families)
def test_the_whole_source_is_the_whole_family(source: DraftShape, family: DraftShape) -> None:
    assert relative_shape(source, source, family) == family


@given(shape=sizes, source=sizes, family=families, share=st.floats(0.0, 1.0))
def test_a_stand_in_is_always_inside_the_family(
    shape: DraftShape, source: DraftShape, family: DraftShape, share: float
) -> None:
    """Also for drafts that are wider than the source."""
    trimmed = max(1, int(share * shape.vocab))
    draft = replace(shape, vocab=source.vocab, draft_vocab=trimmed if trimmed < source.vocab else None)
    stand_in = relative_shape(draft, source, family)
    check_inside(family, replace(stand_in, draft_vocab=None))
    assert (stand_in.draft_vocab is None) == (draft.draft_vocab is None or family.vocab == 1)


@given(shapes=nested(), family=families)
def test_shares_are_kept_to_half_a_unit(shapes: tuple[DraftShape, DraftShape, DraftShape], family: DraftShape) -> None:
    source, shape, _ = shapes
    stand_in = relative_shape(shape, source, family)
    for name in ("layers", "ffn", "hidden"):
        exact = getattr(shape, name) / getattr(source, name) * getattr(family, name)
        assert abs(getattr(stand_in, name) - max(exact, 1.0)) <= 0.5 + 1e-6, name


@pytest.mark.parametrize(
    ("source", "change", "family", "expected"),
    [
        (LLAMA_65B, {"layers": 10, "hidden": 4096, "ffn": 5504}, DEMO, {"layers": 1, "hidden": 64, "ffn": 88}),
        (LLAMA_65B, {"layers": 1}, DEMO, {"layers": 1}),
        (LLAMA_65B, {"heads": 32, "kv_heads": 32}, DEMO, {"heads": 2, "kv_heads": 2}),
        (LLAMA_3_70B, {"heads": 32, "kv_heads": 8}, DEMO, {"heads": 2, "kv_heads": 2}),
        (LLAMA_3_70B, {"heads": 32, "kv_heads": 8}, GROUPED, {"heads": 6, "kv_heads": 3}),
        (LLAMA_3_70B, {"heads": 32, "kv_heads": 4}, GROUPED, {"heads": 8, "kv_heads": 2}),
        (LLAMA_65B, {"draft_vocab": 8000}, DEMO, {"draft_vocab": 512}),
        (LLAMA_65B, {"draft_vocab": 31999}, DEMO, {"draft_vocab": 2047}),
    ],
)
def test_examples(source: DraftShape, change: dict[str, int], family: DraftShape, expected: dict[str, int]) -> None:
    assert relative_shape(replace(source, **change), source, family) == replace(family, **expected)


def test_it_needs_no_torch() -> None:
    code = "import sys, autotune.proxy.stand_in; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0
