"""A decoder of any style for CPUs as one primitive function of TVM, `run`; `autotune.tvm_layout` says how it is called.

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

from autotune.compile.graphs import tvm_attention as kernels
from autotune.compile.graphs import tvm_norms as norms
from autotune.compile.graphs import tvm_sampling as sampling
from autotune.compile.graphs.tvm_arena import Arena, Slot, blocks, ffn_matrix, ffn_width, padded, plan
from autotune.compile.graphs.tvm_matmul import Matrix, matmul
from autotune.compile.graphs.tvm_primitives import LANES, store
from autotune.compile.schedule import Schedule
from autotune.number_formats import INT4_BLOCK, Precision
from autotune.shape import DraftShape, Norm
from autotune.stopping import CONFIDENCE_BINS

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
        outer = max(shape.hidden, shape.embed_dim)
        depth = max(outer, shape.heads * shape.head_dim, shape.ffn)
        widths = {
            "x": padded(outer),
            "normed": padded(outer),
            "qkv": padded((shape.heads + 2 * shape.kv_heads) * shape.head_dim),
            "attended": padded(shape.heads * shape.head_dim),
            "product": ffn_width(shape),
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
        "control": ((5,), "int32"),
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
        "log_acceptance": ((CONFIDENCE_BINS,), "float32"),
        "limits": ((LONGEST_BURST,), "float32"),
        "survival": ((2,), "float32"),
    }
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("run")
            given = {name: T.arg(name, T.buffer(size, dtype)) for name, (size, dtype) in buffers.items()}
            T.func_attr({"global_symbol": "run", "tirx.is_scheduled": True, "tirx.noalias": True})
            _Writer(model, arena, given, schedules or {}).steps()
        return tvm.IRModule({"run": builder.get()})


@dataclass(frozen=True)
class _Section:
    """One of the arena's sections, and where it begins."""

    slots: Mapping[str, Slot]
    origin: Any


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
        store(self._given["survival"], [0], T.float32(0))
        with T.serial(control[2]) as step, T.If(step < control[2]), T.Then():  # control[2] falls where a burst stops
            begin, rows = T.bind(control[0]), T.bind(control[1])
            self._decode(begin, rows)
            with T.If(control[3] != 0):
                with T.Then():
                    self._draw(step, rows - 1)
                with T.Else():
                    sampling.argmax(self._given["logits"], after, self._ids(), self._model.shape.head_rows, rows)
            chosen = T.bind(after[rows - 1])
            store(self._given["drafted"], [step], chosen)
            with T.If(control[4] != 0), T.Then():
                self._stop(step, rows - 1)
            with T.If(step + 1 < control[2]), T.Then():
                store(tokens, [0], chosen)
                store(control, [0], begin + rows)
                store(control, [1], T.int32(1))

    def _decode(self, begin: Any, rows: Any) -> None:
        """Adds everything from `tokens` to `logits`."""
        model, arena, given, scratch = self._model, self._arena, self._given, self._scratch
        shape, style, hidden = model.shape, model.shape.style, model.shape.hidden
        x, normed, qkv, attended, product, _, scores, _ = scratch.values()
        tables = None
        if not style.learned_positions:
            tables = (self._floats(arena.before["cosines"], 0), self._floats(arena.before["sines"], 0))
        self._embed(begin, rows)
        with T.serial(shape.layers) as layer:
            origin = T.Cast("int64", layer) * T.int64(arena.layer_bytes) + T.int64(arena.layers_begin_bytes)
            section = _Section(arena.layer, origin)
            # Norms stand before a block and leave x alone, or behind its sum and change it.
            source = normed if style.norm_first else x

            def norm(name: str) -> None:
                self._norm(section, name, source, rows)

            def multiply(name: str, source: Any, into: Any, depth: int, epilogue: str) -> None:
                self._multiply(section, name, source, into, depth, rows, epilogue)

            if style.norm_first:
                norm("attn_norm")
            multiply("qkv", source, qkv, hidden, "store")
            if style.qk_norm:
                self._norm_heads(section, rows)
            kernels.attention(
                qkv, tables, given["keys"], given["values"], scores, attended, shape, layer, (begin, rows)
            )
            multiply("o", attended, x, shape.heads * shape.head_dim, "add")
            norm("ffn_norm" if style.norm_first else "attn_norm")
            multiply(ffn_matrix(shape), source, product, hidden, "swiglu" if style.gated else "relu")
            multiply("down", product, x, shape.ffn, "add")
            if not style.norm_first:
                norm("ffn_norm")
        self._head(rows)

    def _embed(self, begin: Any, rows: Any) -> None:
        """Adds the way from tokens to x."""
        shape, style, before = self._model.shape, self._model.shape.style, _Section(self._arena.before, 0)
        x, normed = self._scratch["x"], self._scratch["normed"]
        table = self._floats(before.slots["embed"], 0)
        if style.embed_dim:
            kernels.embed(self._given["tokens"], table, normed, style.embed_dim, rows)
            self._multiply(before, "embed_project", normed, x, style.embed_dim, rows)
        else:
            kernels.embed(self._given["tokens"], table, x, shape.hidden, rows)
        if style.learned_positions:
            kernels.add_positions(self._floats(before.slots["positions"], 0), x, shape.hidden, begin, rows)

    def _head(self, rows: Any) -> None:
        """Adds the way from x to logits."""
        shape, style = self._model.shape, self._model.shape.style
        after = _Section(self._arena.after, self._arena.after_begins_bytes)
        source, other = self._scratch["x"], self._scratch["normed"]
        if style.norm_first:
            self._norm(after, "norm", other, rows)
            source, other = other, source
        if style.embed_dim:
            self._multiply(after, "head_project", source, other, shape.hidden, rows)
            source = other
        self._multiply(after, "head", source, self._given["logits"], shape.embed_dim, rows)

    def _norm(self, section: "_Section", name: str, into: Any, rows: Any) -> None:
        """Adds a norm of x."""
        model, x = self._model, self._scratch["x"]
        hidden, weight = model.shape.hidden, self._floats(section.slots[name], section.origin)
        if model.shape.style.norm is Norm.RMS:
            norms.rms_norm(x, weight, into, hidden, model.norm_eps, rows)
        else:
            bias = self._floats(section.slots[f"{name}_bias"], section.origin)
            norms.layer_norm(x, weight, bias, into, hidden, model.norm_eps, rows)

    def _norm_heads(self, section: "_Section", rows: Any) -> None:
        """Adds the norms of queries and keys."""
        shape, first = self._model.shape, 0
        for name, count in (("q_norm", shape.heads), ("k_norm", shape.kv_heads)):
            weight = self._floats(section.slots[name], section.origin)
            norms.norm_heads(self._scratch["qkv"], weight, first, count, shape.head_dim, self._model.norm_eps, rows)
            first += count

    def _multiply(
        self, section: "_Section", name: str, source: Any, into: Any, depth: int, rows: Any, epilogue: str = "store"
    ) -> None:
        """Adds a product with a matrix of the section."""
        slots, origin, slot = section.slots, section.origin, section.slots[name]
        values = self._floats(slot, origin) if slot.dtype == "float32" else self._codes(slot, origin)
        scales, bias = (
            self._floats(slots[f"{name}_{part}"], origin) if f"{name}_{part}" in slots else None
            for part in ("scales", "bias")
        )
        matrix = Matrix(self._model.precision, depth, slot.shape[0], values, scales, bias)
        matmul(source, into, matrix, rows, epilogue, self._scratch["input_sums"], self._schedules.get(name))

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
            (given["survival"], [1]),
            (given["after"], [row]),
            self._ids(),
            self._scratch["block_sums"],
        )

    def _stop(self, step: Any, row: Any) -> None:
        """Adds the end of the burst, unless the confidence in the token after the last row lets it go on."""
        given, survival = self._given, self._given["survival"]
        with T.If(given["control"][3] == 0), T.Then():  # a draw has told its own
            sampling.confidence(given["logits"], row, self._model.shape.head_rows, (survival, [1]))
        place = T.Cast("int32", survival[1] * T.float32(CONFIDENCE_BINS))
        logarithm = given["log_acceptance"][T.min(place, T.int32(CONFIDENCE_BINS - 1))]
        store(survival, [0], survival[0] + logarithm)
        with T.If(survival[0] < given["limits"][step]), T.Then():
            store(given["control"], [2], step + 1)

    def _ids(self) -> Any:
        return None if self._model.shape.draft_vocab is None else self._given["ids"]

    def _floats(self, slot: Slot, origin: Any) -> Any:
        """The array at that place of the section that begins at `origin`."""
        return self._view("floats", slot, origin, 4)

    def _codes(self, slot: Slot, origin: Any) -> Any:
        return self._view("codes", slot, origin, 1 if slot.dtype == "int8" else 4)

    def _view(self, memory: str, slot: Slot, origin: Any, item_bytes: int) -> Any:
        begin = tvm.tirx.floordiv(origin + T.int64(slot.offset_bytes), T.int64(item_bytes))
        return T.decl_buffer(slot.shape, slot.dtype, data=self._given[memory].data, elem_offset=begin)
