import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.paper.published import DEPTHS, DRAFTS, HEADS, OPT_DRAFTS
from autotune.paper.shapes import of_equal_depth, of_equal_size, shrunk


def test_depth_changes_and_size_does_not() -> None:
    shapes = of_equal_size()
    assert [shape.layers for shape in shapes.values()] == list(DEPTHS)
    for shape in shapes.values():
        assert shape.parameters == pytest.approx(350e6, rel=0.01)
    widths = [shape.hidden for shape in shapes.values()]
    assert widths == sorted(widths)


def test_heads_change_and_size_and_depth_do_not() -> None:
    shapes = of_equal_depth()
    assert [shape.heads for shape in shapes.values()] == list(HEADS)
    assert len({shape.layers for shape in shapes.values()}) == 1
    for shape in shapes.values():
        assert shape.parameters == pytest.approx(350e6, rel=0.01)


@given(st.sampled_from([*DRAFTS.values(), *OPT_DRAFTS.values()]), st.sampled_from([1, 2, 4, 16, 64]))
def test_a_shrunk_draft_keeps_its_proportions(draft: object, divisor: int) -> None:
    shape = draft.shape  # type: ignore[attr-defined]
    small = shrunk(shape, divisor)
    assert (small.layers, small.heads) == (shape.layers, shape.heads)
    assert small.hidden == small.heads * small.head_dim
    assert small.parameters <= shape.parameters
    if divisor == 1:
        assert small is shape
