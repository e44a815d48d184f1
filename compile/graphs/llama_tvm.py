"""A LLaMA decoder as a Relax module: the functions of `autotune.tvm_layout`, made of the kernels of `tvm_kernels`.

`step` serves prefill, decode and verification; `burst_k` is k steps as one program, in which every step feeds its
arg-max token to the next.  The steps of a burst call `step`, so a burst adds next to nothing to the time of compiling.

Relax is a language of pure functions, and reorders or drops what nobody uses.  Buffers updated in place are therefore
passed on as results: who reads them next names the result, not the buffer.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from autotune.candidate import DraftShape
from autotune.compile.graphs import tvm_kernels as kernels
from autotune.compile.graphs.rotary import rotary_caches
from autotune.compile.graphs.tvm_kernels import LANES, PIECE_TOKENS, blocks, padded
from autotune.weights import FloatArray, ModelWeights

GRAPH_VERSION = "1"
"""Raise it when the module or the packing of given weights changes: compiled programs are cached by it."""

LONGEST_BURST = 8

Shapes = dict[str, tuple[int, ...]]


def logits_shape(shape: DraftShape) -> tuple[int, int]:
    """Shape of the logits buffer."""
    return PIECE_TOKENS, padded(shape.vocab)


def scratch_shapes(shape: DraftShape) -> Shapes:
    """Shapes of the activations' buffers by parameter name, in the order of the parameters."""
    widths = {
        "x": padded(shape.hidden),
        "normed": padded(shape.hidden),
        "qkv": padded(_qkv_columns(shape)),
        "attended": padded(shape.heads * shape.head_dim),
        "product": _product_width(shape),
    }
    return {name: (PIECE_TOKENS, width) for name, width in widths.items()}


def cache_shapes(shape: DraftShape, capacity_tokens: int) -> Shapes:
    """Shapes of the key/value cache by parameter name, in the order of the parameters."""
    keys = (shape.kv_heads, blocks(capacity_tokens), shape.head_dim, LANES)
    values = (shape.kv_heads, capacity_tokens, shape.head_dim)
    return {
        f"{name}_{index}": size for index in range(shape.layers) for name, size in (("keys", keys), ("values", values))
    }


def packed_weights(weights: ModelWeights, capacity_tokens: int) -> Iterator[tuple[str, FloatArray]]:
    """The arrays the kernels read, by parameter name and in the order of the parameters."""
    shape = weights.shape
    cosines, sines = rotary_caches(weights.numerics, shape.head_dim, capacity_tokens)
    yield "cosines", cosines
    yield "sines", sines
    yield "embed", _pad_columns(weights.arrays["embed"])
    yield "norm", _pad_columns(weights.arrays["norm"])
    yield "head", _pack(weights.arrays["head"])
    for index in range(shape.layers):
        yield f"attn_norm_{index}", _pad_columns(weights.layer(index, "attn.norm"))
        yield f"qkv_{index}", _pack(np.concatenate([weights.layer(index, f"attn.{part}") for part in "qkv"]))
        yield f"o_{index}", _pack(weights.layer(index, "attn.o"))
        yield f"ffn_norm_{index}", _pad_columns(weights.layer(index, "ffn.norm"))
        gate, up = (_pack(weights.layer(index, f"ffn.{part}"), LANES // 2) for part in ("gate", "up"))
        yield f"gate_up_{index}", np.concatenate([gate, up], axis=2)
        yield f"down_{index}", _pack(weights.layer(index, "ffn.down"))


def llama_module(weights: Shapes, shape: DraftShape, norm_eps: float, capacity_tokens: int) -> tvm.IRModule:
    """The module with `step` and `burst_1` … `burst_N`; weights: the shapes of what `packed_weights` yields."""
    writer = _ModuleWriter(weights, shape, norm_eps, capacity_tokens)
    step = writer.step()
    for count in range(1, LONGEST_BURST + 1):
        writer.burst(step, count)
    return writer.builder.get()


def compile_library(module: tvm.IRModule, path: Path) -> None:
    """Compile the module for this machine's processor into a shared library at `path`."""
    target = tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu()})
    with target:
        lowered = _without_checks(relax.get_default_pipeline(target)(module))
    relax.build(lowered, target, relax_pipeline=None).export_library(str(path))


def _without_checks(module: tvm.IRModule) -> tvm.IRModule:
    """The lowered module without the checks of types and shapes at the beginning of every function.

    Sessions bind buffers once, of the sizes the layout says; checking all of them again in every step of a burst takes
    longer than a small draft's arithmetic.
    """
    stripped = tvm.IRModule(dict(module.functions_items()), attrs=module.attrs)
    for name, function in module.functions_items():
        if isinstance(function, relax.Function):
            parts = [
                relax.BindingBlock([binding for binding in block.bindings if not _is_check(binding.value)])
                for block in function.body.blocks
            ]
            body = relax.SeqExpr(parts, function.body.body)
            stripped[name] = relax.Function(
                function.params, body, function.ret_ty, is_pure=function.is_pure, attrs=function.attrs
            )
    return stripped


def _is_check(value: Any) -> bool:
    """Whether a bound value is a call of one of the runtime's checks."""
    return (
        isinstance(value, relax.Call)
        and isinstance(value.op, relax.ExternFunc)
        and str(value.op.global_symbol) in ("vm.builtin.check_tensor_info", "vm.builtin.match_shape")
    )


def _pack(matrix: FloatArray, lanes: int = LANES) -> FloatArray:
    """`[out, in]` as blocks `[out / lanes, in, lanes]`, the last one filled with zeros."""
    rows, depth = matrix.shape
    count = -(-rows // lanes)
    if rows % lanes:
        matrix = np.pad(matrix, ((0, count * lanes - rows), (0, 0)))
    return np.ascontiguousarray(matrix.reshape(count, lanes, depth).transpose(0, 2, 1))


def _pad_columns(array: FloatArray) -> FloatArray:
    """The array with its last axis filled up with zeros to whole blocks."""
    added = padded(array.shape[-1]) - array.shape[-1]
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, added)]) if added else array


class _ModuleWriter:
    """A module in the making; kernels are added when they are first used."""

    def __init__(self, weights: Shapes, shape: DraftShape, norm_eps: float, capacity_tokens: int):
        self.builder = relax.BlockBuilder()
        self._weights = weights
        self._shape = shape
        self._norm_eps = norm_eps
        self._capacity_tokens = capacity_tokens
        self._kernels: dict[str, Any] = {}

    def step(self) -> Any:
        """Adds the function `step`; its name in the module."""
        state, parameters = self._state(), self._parameters()
        with self.builder.function("step", [*state.values(), *parameters.values()]):
            return self.builder.emit_func_output(self._decode(state | parameters))

    def burst(self, step: Any, count: int) -> None:
        """Adds the function `burst_<count>`."""
        state, parameters = self._state(), self._parameters()
        tokens, span, after, logits = state.values()
        drafted: Any = relax.Var("drafted", _tensor((LONGEST_BURST,), "int64"))
        with self.builder.function(f"burst_{count}", [*state.values(), drafted, *parameters.values()]):
            for _ in range(count):
                after = self.builder.emit(relax.Call(step, [tokens, span, after, logits, *parameters.values()]))
                advanced = self._run("advance", [after, tokens, span, drafted], [1, 2, 3])
                tokens, span, drafted = (self.builder.emit(relax.TupleGetItem(advanced, i)) for i in range(3))
            self.builder.emit_func_output(drafted)

    def _decode(self, given: Mapping[str, Any]) -> Any:
        """Adds everything from `tokens` to `after`; given: the function's parameters by name."""
        span, normed, qkv, attended, product = (given[name] for name in ("span", *_SCRATCH[1:]))
        x = self._run("embed", [given["tokens"], span, given["embed"], given["x"]])
        for index in range(self._shape.layers):
            layer = {name: given[f"{name}_{index}"] for name in _LAYER}
            normed = self._run("norm", [x, span, layer["attn_norm"], normed])
            qkv = self._run("qkv", [normed, span, layer["qkv"], qkv])
            tables = [given["cosines"], given["sines"]]
            attended = self._run("attention", [qkv, span, *tables, layer["keys"], layer["values"], attended])
            x = self._run("o", [attended, span, layer["o"], x])
            normed = self._run("norm", [x, span, layer["ffn_norm"], normed])
            product = self._run("gate_up", [normed, span, layer["gate_up"], product])
            x = self._run("down", [product, span, layer["down"], x])
        normed = self._run("norm", [x, span, given["norm"], normed])
        logits = self._run("head", [normed, span, given["head"], given["logits"]])
        return self._run("argmax", [logits, span, given["after"]])

    def _run(self, name: str, arguments: Sequence[Any], written: Sequence[int] = ()) -> Any:
        """What the kernel of that name makes of the argument it updates in place: the last, unless others are named.

        (Attention also updates the caches.  Only the attention of the same layer reads them, in a later step.)
        """
        places = list(written) or [len(arguments) - 1]
        types = [arguments[index].ty for index in places]
        return self.builder.emit(
            relax.op.call_tir_inplace(self._kernel(name), list(arguments), places, types if written else types[0])
        )

    def _kernel(self, name: str) -> Any:
        """The kernel of that name in the module."""
        if name not in self._kernels:
            function = self._make_kernel(name).with_attr("global_symbol", name)
            self._kernels[name] = self.builder.add_func(function, name)
        return self._kernels[name]

    def _make_kernel(self, name: str) -> Any:
        shape = self._shape
        hidden, attended = padded(shape.hidden), shape.heads * shape.head_dim
        match name:
            case "embed":
                return kernels.embed(shape.vocab, shape.hidden)
            case "norm":
                return kernels.rms_norm(shape.hidden, self._norm_eps)
            case "qkv":
                return kernels.matmul(shape.hidden, hidden, _qkv_columns(shape), "store")
            case "attention":
                return kernels.attention(shape, self._capacity_tokens)
            case "o":
                return kernels.matmul(attended, padded(attended), shape.hidden, "add")
            case "gate_up":
                return kernels.matmul(shape.hidden, hidden, 2 * shape.ffn, "swiglu")
            case "down":
                return kernels.matmul(shape.ffn, _product_width(shape), shape.hidden, "add")
            case "head":
                return kernels.matmul(shape.hidden, hidden, shape.vocab, "store")
            case "argmax":
                return kernels.argmax(shape.vocab)
            case "advance":
                return kernels.advance(LONGEST_BURST)
        raise ValueError(f"no kernel {name!r}")

    def _state(self) -> dict[str, Any]:
        """Fresh variables for what changes from call to call."""
        return {
            "tokens": relax.Var("tokens", _tensor((PIECE_TOKENS,), "int64")),
            "span": relax.Var("span", _tensor((3,), "int32")),
            "after": relax.Var("after", _tensor((PIECE_TOKENS,), "int64")),
            "logits": relax.Var("logits", _tensor(logits_shape(self._shape))),
        }

    def _parameters(self) -> dict[str, Any]:
        """Fresh variables for scratch memory, weights and caches."""
        sizes = scratch_shapes(self._shape) | self._weights | cache_shapes(self._shape, self._capacity_tokens)
        return {name: relax.Var(name, _tensor(size)) for name, size in sizes.items()}


_LAYER = ("attn_norm", "qkv", "o", "ffn_norm", "gate_up", "down", "keys", "values")
_SCRATCH = ("x", "normed", "qkv", "attended", "product")


def _qkv_columns(shape: DraftShape) -> int:
    return (shape.heads + 2 * shape.kv_heads) * shape.head_dim


def _product_width(shape: DraftShape) -> int:
    """Columns that the SwiGLU's product is stored with."""
    return blocks(2 * shape.ffn) * LANES // 2


def _tensor(size: Sequence[int], dtype: str = "float32") -> Any:
    return relax.TensorType(tuple(size), dtype)
