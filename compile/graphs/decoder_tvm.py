"""A LLaMA decoder for CPUs as one primitive function of TVM, `run`; `autotune.tvm_layout` says how it is called.

`run` makes one step or several, each of which feeds its token to the next: the arg-max, or one drawn in the program. So
one function serves prefill, decode, verification and bursts, and is compiled in the time of one step.

There is no graph of kernels and no virtual machine that calls them: a small draft's step takes some ten microseconds,
and looking up the arguments of twenty kernels, whose descriptions the target has meanwhile driven out of the caches,
took longer than the arithmetic.  Layers are a loop: all are laid out alike in one block of memory (`tvm_arena`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812 (its usual name)

from autotune.candidate import INT4_BLOCK, DraftShape, Precision
from autotune.compile.graphs import tvm_attention as kernels
from autotune.compile.graphs import tvm_sampling as sampling
from autotune.compile.graphs.tvm_arena import Arena, Slot, blocks, padded, plan, swiglu_width
from autotune.compile.graphs.tvm_matmul import Matrix, matmul
from autotune.compile.graphs.tvm_primitives import LANES, store
from autotune.compile.schedule import Schedule

PIECE_TOKENS = 64
"""Rows (tokens) of one call."""
LONGEST_BURST = 16
"""Steps of one call."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """What the function is built for."""

    shape: DraftShape
    norm_eps: float
    precision: Precision
    capacity_tokens: int

    @property
    def logits_shape(self) -> tuple[int, int]:
        """Of the logits' buffer; that of the distributions has a row for each step of a burst."""
        return PIECE_TOKENS, padded(self.shape.head_rows)

    @property
    def cache_shapes(self) -> tuple[Shape, Shape]:
        """Of the keys' and the values' caches."""
        shape, capacity = self.shape, self.capacity_tokens
        keys = (shape.layers, shape.kv_heads, blocks(capacity), shape.head_dim, LANES)
        return keys, (shape.layers, shape.kv_heads, capacity, shape.head_dim)

    @property
    def scratch_shapes(self) -> Mapping[str, Shape]:
        """Of the activations, which share one buffer in this order."""
        shape = self.shape
        depth = max(shape.hidden, shape.heads * shape.head_dim, shape.ffn)
        widths = {
            "x": padded(shape.hidden),
            "normed": padded(shape.hidden),
            "qkv": padded((shape.heads + 2 * shape.kv_heads) * shape.head_dim),
            "attended": padded(shape.heads * shape.head_dim),
            "product": swiglu_width(shape.ffn),
            "input_sums": padded(-(-depth // INT4_BLOCK)),
        }
        rows: dict[str, Shape] = {name: (PIECE_TOKENS, width) for name, width in widths.items()}
        scores = {"scores": (shape.kv_heads, padded(self.capacity_tokens))}
        return rows | scores | {"block_sums": (padded(blocks(shape.head_rows)),)}

    @property
    def scratch_floats(self) -> int:
        """Length of that buffer."""
        return sum(prod(shape) for shape in self.scratch_shapes.values())

    @property
    def code_type(self) -> str:
        """What integers the weights' memory is read as."""
        return "int8" if self.precision is Precision.INT8 else "uint32"


def decoder_module(model: Model, schedules: Mapping[str, Schedule] | None = None) -> tvm.IRModule:
    """The module with the function `run`; schedules: of products by the matrix's name, where not the default one."""
    arena = plan(model.shape, model.precision, model.capacity_tokens)
    keys, values = model.cache_shapes
    rows, columns = model.logits_shape
    code_bytes = 1 if model.code_type == "int8" else 4
    buffers: Mapping[str, tuple[tuple[Any, ...], str]] = {
        "control": ((4,), "int32"),
        "tokens": ((PIECE_TOKENS,), "int64"),
        "after": ((PIECE_TOKENS,), "int64"),
        "logits": ((rows, columns), "float32"),
        "drafted": ((LONGEST_BURST,), "int64"),
        "settings": ((3,), "float32"),
        "noise": ((LONGEST_BURST,), "float64"),
        "probabilities": ((LONGEST_BURST,), "float32"),
        "distributions": ((LONGEST_BURST, columns), "float32"),
        "scratch": ((model.scratch_floats,), "float32"),
        "keys": (keys, "float32"),
        "values": (values, "float32"),
        "ids": ((model.shape.draft_vocab or 1,), "int64"),
        "floats": ((T.int64(arena.size_bytes // 4),), "float32"),
        "codes": ((T.int64(arena.size_bytes // code_bytes),), model.code_type),
    }
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("run")
            given = {name: T.arg(name, T.buffer(size, dtype)) for name, (size, dtype) in buffers.items()}
            T.func_attr({"global_symbol": "run", "tirx.is_scheduled": True, "tirx.noalias": True})
            _Writer(model, arena, given, schedules or {}).steps()
        return tvm.IRModule({"run": builder.get()})


class _Writer:
    """Adds the statements of `run` to the function being built."""

    def __init__(self, model: Model, arena: Arena, given: Mapping[str, Any], schedules: Mapping[str, Schedule]):
        self._model, self._arena, self._given, self._schedules = model, arena, given, schedules
        self._scratch: dict[str, Any] = {}
        begin = 0
        for name, shape in model.scratch_shapes.items():
            self._scratch[name] = T.decl_buffer(shape, "float32", data=given["scratch"].data, elem_offset=begin)
            begin += prod(shape)

    def steps(self) -> None:
        """Adds the loop over steps."""
        control, tokens, after = (self._given[name] for name in ("control", "tokens", "after"))
        with T.serial(control[2]) as step:
            begin, rows = T.bind(control[0]), T.bind(control[1])
            self._decode(begin, rows)
            with T.If(control[3] != 0):
                with T.Then():
                    self._draw(step, rows - 1)
                with T.Else():
                    sampling.argmax(self._given["logits"], after, self._ids(), self._model.shape.head_rows, rows)
            chosen = T.bind(after[rows - 1])
            store(self._given["drafted"], [step], chosen)
            with T.If(step + 1 < control[2]), T.Then():
                store(tokens, [0], chosen)
                store(control, [0], begin + rows)
                store(control, [1], T.int32(1))

    def _decode(self, begin: Any, rows: Any) -> None:
        """Adds everything from `tokens` to `logits`."""
        model, arena, given, scratch = self._model, self._arena, self._given, self._scratch
        shape, hidden = model.shape, model.shape.hidden
        x, normed, qkv, attended, product, sums, scores, _ = scratch.values()
        tables = (self._floats(arena.before["cosines"], 0), self._floats(arena.before["sines"], 0))
        kernels.embed(given["tokens"], self._floats(arena.before["embed"], 0), x, hidden, rows)
        with T.serial(shape.layers) as layer:
            origin = T.Cast("int64", layer) * T.int64(arena.layer_bytes) + T.int64(arena.layers_begin_bytes)

            def multiply(name: str, source: Any, into: Any, depth: int, epilogue: str) -> None:
                matrix = self._matrix(arena.layer, name, origin, depth)
                matmul(source, into, matrix, rows, epilogue, sums, self._schedules.get(name))

            norm = self._floats(arena.layer["attn_norm"], origin)
            kernels.rms_norm(x, norm, normed, hidden, model.norm_eps, rows)
            multiply("qkv", normed, qkv, hidden, "store")
            kernels.attention(
                qkv, tables, given["keys"], given["values"], scores, attended, shape, layer, (begin, rows)
            )
            multiply("o", attended, x, shape.heads * shape.head_dim, "add")
            norm = self._floats(arena.layer["ffn_norm"], origin)
            kernels.rms_norm(x, norm, normed, hidden, model.norm_eps, rows)
            multiply("gate_up", normed, product, hidden, "swiglu")
            multiply("down", product, x, shape.ffn, "add")
        norm = self._floats(arena.after["norm"], arena.after_begins_bytes)
        kernels.rms_norm(x, norm, normed, hidden, model.norm_eps, rows)
        head = self._matrix(arena.after, "head", arena.after_begins_bytes, hidden)
        matmul(normed, given["logits"], head, rows, "store", sums, self._schedules.get("head"))

    def _draw(self, step: Any, row: Any) -> None:
        """Adds the draw of the token after the last row."""
        given = self._given
        sampling.draw(
            given["logits"],
            row,
            self._model.shape.head_rows,
            given["settings"],
            given["noise"][step],
            lambda column: (given["distributions"], [step, column]),
            (given["probabilities"], [step]),
            (given["after"], [row]),
            self._ids(),
            self._scratch["block_sums"],
        )

    def _ids(self) -> Any:
        return None if self._model.shape.draft_vocab is None else self._given["ids"]

    def _matrix(self, section: Mapping[str, Slot], name: str, origin: Any, depth: int) -> Matrix:
        slot = section[name]
        values = self._floats(slot, origin) if slot.dtype == "float32" else self._codes(slot, origin)
        scales = self._floats(section[f"{name}_scales"], origin) if f"{name}_scales" in section else None
        return Matrix(self._model.precision, depth, slot.shape[0], values, scales)

    def _floats(self, slot: Slot, origin: Any) -> Any:
        """The array at that place of the section that begins at `origin`."""
        return self._view("floats", slot, origin, 4)

    def _codes(self, slot: Slot, origin: Any) -> Any:
        return self._view("codes", slot, origin, 1 if slot.dtype == "int8" else 4)

    def _view(self, memory: str, slot: Slot, origin: Any, item_bytes: int) -> Any:
        begin = tvm.tirx.floordiv(origin + T.int64(slot.offset_bytes), T.int64(item_bytes))
        return T.decl_buffer(slot.shape, slot.dtype, data=self._given[memory].data, elem_offset=begin)
