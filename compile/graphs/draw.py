"""Nodes that draw a token from logits: `autotune.sampling.distribution` and `draw_at` as ONNX operators.

Two kinds, since most of the work of the second is wasted where nothing is filtered out:

* `Drawing.TEMPERATURE`: softmax of the logits over the temperature;
* `Drawing.FILTERED`: the same behind top-k, top-p or both.  The largest `ranked` logits are sorted; only where their
  mass falls short of `top_p`, all of them are.

Probabilities are float32; they are cumulated in float64, so that even a token of probability 1e-9 is drawn as often as
its probability, which is returned, says.

================== ======= =============================================================================
input              type    meaning
================== ======= =============================================================================
`coldness` `[]`    float32 1 / temperature
`noise.I` `[]`     float64 the uniform number of step I, in [0, `MOST_NOISE`]
`ranked` `[1]`     int64   filtered only: how many logits are sorted at first; top_k where there is one
`limited` `[]`     bool    filtered only: whether logits below the last ranked one are left out: top-k
`top_p` `[]`       float64 filtered only; 1 or more: no such filter
================== ======= =============================================================================
"""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from autotune.ort_layout import MOST_NOISE, Drawing

_SEARCHED_AT_ONCE = 4096
"""Rows below which one stage is faster than two."""
_SMALLEST_BLOCK = 8


def drawing_inputs(drawing: Drawing) -> list[onnx.ValueInfoProto]:
    """The inputs that all steps share."""
    value = helper.make_tensor_value_info
    shared = [value("coldness", TensorProto.FLOAT, [])]
    filters = [
        value("ranked", TensorProto.INT64, [1]),
        value("limited", TensorProto.BOOL, []),
        value("top_p", TensorProto.DOUBLE, []),
    ]
    return {Drawing.GREEDY: [], Drawing.TEMPERATURE: shared, Drawing.FILTERED: [*shared, *filters]}[drawing]


def drawing_constants(drawing: Drawing, rows: int) -> list[onnx.TensorProto]:
    """The constants that all steps share, for logits `[1, 1, rows]`."""
    if drawing is Drawing.GREEDY:
        return []
    arrays: dict[str, NDArray[np.generic]] = {
        "draw.axis": np.array(-1, np.int64),
        "draw.last_axis": np.array([-1], np.int64),
    }
    block = _block_rows(rows)
    if block:
        arrays["draw.blocks"] = np.array([1, -1, block], np.int64)
        arrays["draw.block"] = np.array(block, np.int64)
        arrays["draw.almost_one"] = np.array(MOST_NOISE)
    if drawing is Drawing.FILTERED:
        arrays["draw.rows"] = np.array([rows], np.int64)
        arrays["draw.shape"] = np.array([1, 1, rows], np.int64)
        arrays["draw.none"] = np.array(-np.inf, np.float32)
        arrays["draw.one"] = np.array(1.0)
    return [numpy_helper.from_array(array, name) for name, array in arrays.items()]


def _block_rows(rows: int) -> int:
    """Rows of the blocks whose sums are searched first; 0 where there are too few rows, or no even division."""
    if rows < _SEARCHED_AT_ONCE:
        return 0
    near_root = sorted(range(_SMALLEST_BLOCK, rows // _SMALLEST_BLOCK), key=lambda block: abs(block * block - rows))
    return next((block for block in near_root if rows % block == 0), 0)


def drawing_nodes(drawing: Drawing, logits: str, rows: int, step: int, token_ids: str | None) -> list[onnx.NodeProto]:
    """Nodes from `logits` `[1, 1, rows]` to `token.S` `[1, 1]`, `probability.S` and `distribution.S` `[1, 1, rows]`.

    token_ids: the constant with the tokens of a trimmed head's rows; None: row i is token i.
    """
    nodes = _Nodes(step)
    distances = nodes.add("Sub", [logits, nodes.add("ReduceMax", [logits, "draw.last_axis"], "largest")], "distances")
    if drawing is Drawing.TEMPERATURE:
        nodes.add("Softmax", [nodes.add("Mul", [distances, "coldness"], "scaled")], "distribution", axis=-1)
    else:
        _filter(nodes, logits, distances)
    _invert(nodes, rows, "token" if token_ids is None else "row")
    if token_ids is not None:
        nodes.add("Gather", [token_ids, nodes.name("row")], "token")
    return nodes.nodes


class _Nodes:
    """Nodes in the making; their values end in the number of the step."""

    def __init__(self, step: int | str):
        self.nodes: list[onnx.NodeProto] = []
        self.step = step

    def add(self, operator: str, inputs: Sequence[str], output: str, *more: str, **attributes: object) -> str:
        """Adds a node and returns the name of its first output."""
        outputs = [self.name(each) for each in (output, *more)]
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=f"{outputs[0]}/{operator}", **attributes))
        return outputs[0]

    def name(self, value: str) -> str:
        """The value's name in this step."""
        return f"{value}.{self.step}"


def _invert(nodes: _Nodes, rows: int, output: str) -> None:
    """`output.S`, the first row whose cumulated probability exceeds noise times their sum, as `sampling.draw_at` finds
    it, and `probability.S`."""
    exact = nodes.add("Cast", [nodes.name("distribution")], "exact", to=TensorProto.DOUBLE)
    if _block_rows(rows):
        _search_blocks(nodes, exact, output)
    else:
        cumulated = nodes.add("CumSum", [exact, "draw.axis"], "cumulated")
        _first_above(nodes, cumulated, _threshold(nodes, cumulated), output)
    row = nodes.add("Unsqueeze", [nodes.name(output), "draw.last_axis"], "row.index")
    nodes.add("GatherElements", [nodes.name("distribution"), row], "probability", axis=-1)


def _search_blocks(nodes: _Nodes, exact: str, output: str) -> None:
    """As `_invert`, in two stages: cumulating all of a large vocabulary takes longer than all else together."""
    blocks = nodes.add("Reshape", [exact, "draw.blocks"], "blocks")
    sums = nodes.add("ReduceSum", [blocks, "draw.last_axis"], "sums", keepdims=0)
    cumulated = nodes.add("CumSum", [sums, "draw.axis"], "cumulated")
    threshold = _threshold(nodes, cumulated)
    block = _first_above(nodes, cumulated, threshold, "block")
    # The sums before the block, exactly as they were cumulated: the rest is never negative.
    before = nodes.add("CumSum", [sums, "draw.axis"], "sums.before", exclusive=1)
    rest = nodes.add("Sub", [threshold, nodes.add("Gather", [before, block], "block.before", axis=-1)], "rest")
    chosen = nodes.add("Gather", [blocks, block], "chosen", axis=1)
    inside = nodes.add("CumSum", [chosen, "draw.axis"], "chosen.cumulated")
    largest = nodes.add("Gather", [inside, "draw.axis"], "chosen.mass", axis=-1)
    # Nor does it, whatever the rounding, reach the mass of the block.
    bounded = nodes.add("Min", [rest, nodes.add("Mul", [largest, "draw.almost_one"], "most")], "rest.bounded")
    within = _first_above(nodes, inside, bounded, "within")
    nodes.add("Add", [nodes.add("Mul", [block, "draw.block"], "block.row"), within], output)


def _threshold(nodes: _Nodes, cumulated: str) -> str:
    total = nodes.add("Gather", [cumulated, "draw.axis"], "total", axis=-1)
    return nodes.add("Mul", [total, nodes.name("noise")], "threshold")


def _first_above(nodes: _Nodes, cumulated: str, threshold: str, output: str) -> str:
    """The first place whose value exceeds the threshold."""
    above = nodes.add("Greater", [cumulated, threshold], f"{output}.above")
    mask = nodes.add("Cast", [above], f"{output}.mask", to=TensorProto.UINT8)
    return nodes.add("ArgMax", [mask], output, axis=-1, keepdims=0)


def _filter(nodes: _Nodes, logits: str, distances: str) -> None:
    """`distribution.S` behind top-k and top-p."""
    nodes.add("TopK", [logits, "ranked"], "top", "top.rows", axis=-1, largest=1, sorted=1)
    last = nodes.add("Gather", [nodes.name("top"), "draw.axis"], "top.last", axis=-1)
    floor = nodes.add("Where", ["limited", last, "draw.none"], "floor")
    dropped = nodes.add("Less", [logits, floor], "dropped")
    scaled = nodes.add("Mul", [distances, "coldness"], "scaled")
    kept = nodes.add("Where", [dropped, "draw.none", scaled], "kept")
    weights = nodes.add("Softmax", [kept], "weights", axis=-1)
    whole = nodes.add("GreaterOrEqual", ["top_p", "draw.one"], "whole")
    nodes.add(
        "If",
        [whole],
        "distribution",
        then_branch=_branch([helper.make_node("Identity", [weights], [f"{weights}.all"])], f"{weights}.all"),
        else_branch=_nucleus(nodes, logits, weights),
    )


def _nucleus(outer: _Nodes, logits: str, weights: str) -> onnx.GraphProto:
    """The branch that keeps the most likely tokens whose mass reaches `top_p`; sorting by logits is exact, since
    different logits may have equal float32 probabilities, and equal ones are sorted by their row."""
    nodes = _Nodes(f"nucleus.{outer.step}")
    ranked = nodes.add("GatherElements", [weights, outer.name("top.rows")], "ranked", axis=-1)
    counted = nodes.add("Cast", [ranked], "ranked.exact", to=TensorProto.DOUBLE)
    mass = nodes.add("ReduceSum", [counted], "mass", keepdims=0)
    missing = nodes.add("Less", [mass, "top_p"], "missing")
    every = _Nodes(f"every.{outer.step}")
    every.add("TopK", [logits, "draw.rows"], "sorted", "sorted.rows", axis=-1, largest=1, sorted=1)
    every.add("GatherElements", [weights, every.name("sorted.rows")], "sorted.weights", axis=-1)
    enough = _Nodes(f"enough.{outer.step}")
    enough.add("Identity", [ranked], "sorted.weights")
    enough.add("Identity", [outer.name("top.rows")], "sorted.rows")
    nodes.add(
        "If",
        [missing],
        "ordered",
        "ordered.rows",
        then_branch=_branch(every.nodes, every.name("sorted.weights"), every.name("sorted.rows")),
        else_branch=_branch(enough.nodes, enough.name("sorted.weights"), enough.name("sorted.rows")),
    )
    exact = nodes.add("Cast", [nodes.name("ordered")], "ordered.exact", to=TensorProto.DOUBLE)
    before = nodes.add("CumSum", [exact, "draw.axis"], "before", exclusive=1)
    inside = nodes.add("Cast", [nodes.add("Less", [before, "top_p"], "inside")], "inside.mask", to=TensorProto.FLOAT)
    kept = nodes.add("Mul", [nodes.name("ordered"), inside], "ordered.kept")
    total = nodes.add("ReduceSum", [kept, "draw.last_axis"], "kept.mass", keepdims=1)
    shares = nodes.add("Div", [kept, total], "shares")
    zeros = nodes.add("ConstantOfShape", ["draw.shape"], "zeros")
    spread = nodes.add("ScatterElements", [zeros, nodes.name("ordered.rows"), shares], "spread", axis=-1)
    return _branch(nodes.nodes, spread)


def _branch(nodes: Sequence[onnx.NodeProto], *outputs: str) -> onnx.GraphProto:
    """A branch of an `If` with these outputs: probabilities, then rows."""
    types = (TensorProto.FLOAT, TensorProto.INT64)
    values = [
        helper.make_tensor_value_info(name, kind, [1, 1, None]) for name, kind in zip(outputs, types, strict=False)
    ]
    return helper.make_graph(nodes, outputs[0], [], values)
