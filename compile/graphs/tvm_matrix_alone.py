"""One product of a decoder as a function of its own, so that schedules of it can be timed without the rest."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812 (its usual name)

from autotune.compile.graphs.tvm_arena import LANES, Slot, ffn_matrix, padded, plan
from autotune.compile.graphs.tvm_matmul import Matrix, matmul
from autotune.compile.schedule import Schedule
from autotune.number_formats import INT4_BLOCK, Precision
from autotune.shape import DraftShape

ROWS = 1
"""What nearly every step of a draft computes."""


@dataclass(frozen=True)
class Product:
    """One of a draft's products: a matrix (of every layer, or the head) and what is done with the result."""

    name: str
    precision: Precision
    depth: int
    copies: int
    """How many matrices of that shape there are, which a step reads one after the other."""
    epilogue: str
    values: Slot
    scales: Slot | None

    @property
    def floats_in(self) -> int:
        """Length of a row of activations, filled up to whole blocks."""
        return padded(self.depth)

    @property
    def floats_out(self) -> int:
        """Length of a row of results."""
        return self.values.shape[0] * (LANES // 2 if self.epilogue == "swiglu" else LANES)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all copies."""
        return self.copies * self.values.end_bytes


def products(shape: DraftShape, precision: Precision) -> tuple[Product, ...]:
    """The products of a step, as in `decoder_tvm` but for biases, and for those with the embeddings' projections."""
    arena = plan(shape, precision, 1)

    def product(name: str, depth: int, epilogue: str) -> Product:
        section, copies = (arena.after, 1) if name == "head" else (arena.layer, shape.layers)
        values, scales = section[name], section.get(f"{name}_scales")
        return Product(name, precision, depth, copies, epilogue, _first(values), scales and _first(scales))

    return (
        product("qkv", shape.hidden, "store"),
        product("o", shape.heads * shape.head_dim, "add"),
        product(ffn_matrix(shape), shape.hidden, "swiglu" if shape.style.gated else "relu"),
        product("down", shape.ffn, "add"),
        product("head", shape.embed_dim, "store"),
    )


def buffers(product: Product) -> Mapping[str, tuple[tuple[int, ...], str]]:
    """Shapes and types of the function's arguments, in order; `rows` is to hold `ROWS`."""
    scales = (product.values.shape[0], LANES)
    return {
        "rows": ((1,), "int32"),
        "x": ((ROWS, product.floats_in), "float32"),
        "values": ((product.copies, *product.values.shape), product.values.dtype),
        "scales": ((product.copies, *scales), "float32"),
        "sums": ((ROWS, padded(-(-product.depth // INT4_BLOCK))), "float32"),
        "y": ((ROWS, product.floats_out), "float32"),
    }


def matrix_module(product: Product, schedule: Schedule) -> tvm.IRModule:
    """A module with the function `run` that multiplies one row by every copy of the matrix in turn."""
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("run")
            given = {name: T.arg(name, T.buffer(size, dtype)) for name, (size, dtype) in buffers(product).items()}
            T.func_attr({"global_symbol": "run", "tirx.is_scheduled": True, "tirx.noalias": True})
            rows = T.bind(given["rows"][0])  # known only when it runs, as in the whole program
            with T.serial(product.copies) as copy:
                values = _copy(given["values"], product.values.shape, product.values.dtype, copy)
                scales = _copy(given["scales"], (product.values.shape[0], LANES), "float32", copy)
                matrix = Matrix(product.precision, product.depth, product.values.shape[0], values, scales)
                matmul(given["x"], given["y"], matrix, rows, product.epilogue, given["sums"], schedule)
        return tvm.IRModule({"run": builder.get()})


def _copy(memory: Any, shape: tuple[int, ...], dtype: str, copy: Any) -> Any:
    """The buffer of one copy."""
    begin = T.Cast("int64", copy) * T.int64(prod(shape))
    return T.decl_buffer(shape, dtype, data=memory.data, elem_offset=begin)


def _first(slot: Slot) -> Slot:
    return Slot(0, slot.shape, slot.dtype)
