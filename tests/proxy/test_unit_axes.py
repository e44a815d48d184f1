from dataclasses import replace

import pytest

from autotune.proxy.unit_axes import Unit, unit_axes
from autotune.shape import layer_weight_shapes, outer_weight_shapes
from tests.support.models import STYLED


@pytest.mark.parametrize("name", STYLED)
def test_axes_change_with_their_units_and_with_nothing_else(name: str) -> None:
    shape, _ = STYLED[name]
    changed_by = {
        Unit.HIDDEN: replace(shape, hidden=shape.hidden + 2),
        Unit.QUERY: replace(shape, heads=2 * shape.heads),
        Unit.CHANNEL: replace(shape, ffn=shape.ffn + 1),
        Unit.KEY_VALUE: replace(shape, kv_heads=1),
    }
    for sizes in (layer_weight_shapes, outer_weight_shapes):
        for weight, size in sizes(shape).items():
            axes = unit_axes(weight, shape.style)
            for unit, changed in changed_by.items():
                differs = [one != other for one, other in zip(size, sizes(changed)[weight], strict=True)]
                assert differs == [axis is unit for axis in axes], (weight, unit)
