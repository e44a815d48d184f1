"""A draft burst as one ONNX program: the step's graph written out k times, each step feeding its token to the next.

All steps read the same arrays and the same key/value cache.  Every step has outputs of its own for what it appends to
the cache, `present.….S`, to be bound, like all `past.…`, to the one cache: nothing is copied, and since a step needs
the token of the one before it, none runs too early.

Inputs, beside those of `autotune.compile.graphs.draw`: `tokens` `[1, n]` and `past.…` as in the step's graph, and the
places `seqlens_k.S` `[1]`, `total_sequence_length.S` `[]` of every step.  Outputs: `token.S` `[1, 1]`; where tokens are
sampled also `probability.S` `[1, 1, 1]` and `distribution.S` `[1, 1, head_rows]`.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autotune.compile.graphs.decoder import HIDDEN, TOKEN_IDS
from autotune.compile.graphs.draw import drawing_constants, drawing_inputs, drawing_nodes
from autotune.compile.graphs.graph_writer import IR_VERSION, OPSETS
from autotune.ort_layout import Drawing

_LAST = "last_position"


def burst_graph(step: onnx.ModelProto, count: int, drawing: Drawing) -> onnx.ModelProto:
    """The burst of `count` steps of the step program `step`, whose arrays it shares."""
    graph = step.graph
    constants = {each.name for each in graph.initializer}
    rows = _head_rows(graph)
    nodes: list[onnx.NodeProto] = []
    for index in range(count):
        nodes += _step_nodes(graph, constants, index, drawing)
    burst = helper.make_graph(
        nodes,
        f"{graph.name}.burst",
        inputs=[*_inputs(graph, count), *drawing_inputs(drawing), *_noise(count, drawing)],
        outputs=list(_outputs(graph, count, rows, drawing)),
        initializer=[
            *graph.initializer,
            *drawing_constants(drawing, rows),
            numpy_helper.from_array(np.array([-1], np.int64), _LAST),
        ],
    )
    return helper.make_model(burst, opset_imports=OPSETS, ir_version=IR_VERSION)


def sampler_graph(step: onnx.ModelProto, drawing: Drawing) -> onnx.ModelProto:
    """A program that only draws: `logits` `[1, 1, head_rows]` of the step program to what a sampled burst's step 0
    puts out."""
    rows = _head_rows(step.graph)
    token_ids = [each for each in step.graph.initializer if each.name == TOKEN_IDS]
    graph = helper.make_graph(
        drawing_nodes(drawing, "logits", rows, 0, TOKEN_IDS if token_ids else None),
        "sampler",
        inputs=[
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, rows]),
            *drawing_inputs(drawing),
            *_noise(1, drawing),
        ],
        outputs=list(_drawn(0, rows, drawing)),
        initializer=[*drawing_constants(drawing, rows), *token_ids],
    )
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=IR_VERSION)


def _head_rows(graph: onnx.GraphProto) -> int:
    """Columns of the step program's logits."""
    logits = next(each for each in graph.output if each.name == "logits")
    rows: int = logits.type.tensor_type.shape.dim[-1].dim_value
    return rows


def _step_nodes(graph: onnx.GraphProto, constants: set[str], index: int, drawing: Drawing) -> Iterator[onnx.NodeProto]:
    """Step `index`, from the token it is given to the one it drafts."""

    def renamed(name: str) -> str:
        if not name or name in constants or name.startswith("past."):
            return name
        if name == "tokens":
            return f"token.{index - 1}" if index else name
        return f"token.{index}" if name == "argmax" else f"{name}.{index}"

    for node in graph.node:
        if drawing is not Drawing.GREEDY and node.output[0] in ("argmax", "argmax.row"):
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{node.name}.{index}"
        del copy.input[:], copy.output[:]
        copy.input.extend(f"{HIDDEN}.last" if index == 0 and name == HIDDEN else renamed(name) for name in node.input)
        copy.output.extend(renamed(name) for name in node.output)
        yield copy
        if index == 0 and HIDDEN in node.output:
            # Of the tokens given, only the last one's successor is asked for.
            yield helper.make_node("Gather", [renamed(HIDDEN), _LAST], [f"{HIDDEN}.last"], name="last/Gather", axis=1)
    if drawing is not Drawing.GREEDY:
        token_ids = TOKEN_IDS if TOKEN_IDS in constants else None
        yield from drawing_nodes(drawing, f"logits.{index}", _head_rows(graph), index, token_ids)


def _inputs(graph: onnx.GraphProto, count: int) -> Iterator[onnx.ValueInfoProto]:
    yield next(each for each in graph.input if each.name == "tokens")
    for index in range(count):
        yield helper.make_tensor_value_info(f"seqlens_k.{index}", TensorProto.INT32, [1])
        yield helper.make_tensor_value_info(f"total_sequence_length.{index}", TensorProto.INT32, [])
    yield from (each for each in graph.input if each.name.startswith("past."))


def _noise(count: int, drawing: Drawing) -> Iterator[onnx.ValueInfoProto]:
    if drawing is not Drawing.GREEDY:
        for index in range(count):
            yield helper.make_tensor_value_info(f"noise.{index}", TensorProto.DOUBLE, [])


def _outputs(graph: onnx.GraphProto, count: int, rows: int, drawing: Drawing) -> Iterator[onnx.ValueInfoProto]:
    for index in range(count):
        yield from _drawn(index, rows, drawing)
        for each in graph.output:
            if each.name.startswith("present."):
                copy = onnx.ValueInfoProto()
                copy.CopyFrom(each)
                copy.name = f"{each.name}.{index}"
                yield copy


def _drawn(index: int, rows: int, drawing: Drawing) -> Iterator[onnx.ValueInfoProto]:
    yield helper.make_tensor_value_info(f"token.{index}", TensorProto.INT64, [1, 1])
    if drawing is not Drawing.GREEDY:
        yield helper.make_tensor_value_info(f"probability.{index}", TensorProto.FLOAT, [1, 1, 1])
        yield helper.make_tensor_value_info(f"distribution.{index}", TensorProto.FLOAT, [1, 1, rows])
