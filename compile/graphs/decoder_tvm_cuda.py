"""A LLaMA decoder as a Relax module for CUDA: the functions of `autotune.tvm_cuda_layout`.

`step` serves prefill, decode and verification; `burst_k` and `sampled_burst_k` are k steps as one program, in which
every step feeds its token to the next without the host.  As in `decoder_tvm`, buffers updated in place are passed on as
results, and whoever reads them next names the result.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import tvm
from numpy.typing import NDArray
from tvm import relax

from autotune.candidate import DraftShape, Precision
from autotune.compile.graphs import tvm_cuda_attention as attention
from autotune.compile.graphs import tvm_cuda_epilogues as epilogues
from autotune.compile.graphs import tvm_cuda_kernels as kernels
from autotune.compile.graphs import tvm_cuda_sampling as sampling
from autotune.compile.graphs.tvm_cuda_code import Size
from autotune.compile.graphs.tvm_cuda_kernels import PIECE_TOKENS, Matrix
from autotune.compile.graphs.tvm_cuda_packing import packed_weights
from autotune.weights import ModelWeights, Numerics

Sizes = dict[str, Size]


class CudaDecoder:
    """How a model is laid out on a GPU, and the module that decodes with it."""

    def __init__(
        self, shape: DraftShape, numerics: Numerics, precision: Precision, capacity_tokens: int, longest_burst: int
    ):
        self._shape, self._numerics, self._precision = shape, numerics, precision
        self._capacity_tokens, self._longest_burst = capacity_tokens, longest_burst
        query_pairs = (shape.heads + 2 * shape.kv_heads) * shape.head_dim // 2
        self._matrices = {
            "qkv": Matrix(precision, shape.hidden, query_pairs),
            "o": Matrix(precision, shape.heads * shape.head_dim, -(-shape.hidden // 2)),
            "gate_up": Matrix(precision, shape.hidden, shape.ffn),
            "down": Matrix(precision, shape.ffn, -(-shape.hidden // 2)),
            "head": Matrix(precision, shape.hidden, -(-shape.head_rows // 2)),
        }

    @property
    def state(self) -> Sizes:
        """Sizes of the buffers that sessions read and write, by name and in the order of the parameters."""
        head, drafted = self._matrices["head"], max(1, self._longest_burst)
        return {
            "state": kernels.STATE,
            "after": kernels.AFTER,
            "logits": ((PIECE_TOKENS, head.blocks * head.columns), "float32"),
            "drafted": ((drafted,), "int64"),
            "dice": sampling.dice_size(drafted),
            "chosen": ((drafted,), "float32"),
            "distributions": ((drafted, self._shape.head_rows), "float32"),
        }

    @property
    def scratch(self) -> Sizes:
        """Sizes of the activations' buffers."""
        shape = self._shape
        return {
            "x": kernels.rows_of(shape.hidden),
            **attention.attention_sizes(shape, self._precision, self._capacity_tokens),
            "attended": kernels.rows_of(shape.heads * shape.head_dim),
            "product": kernels.rows_of(shape.ffn),
            "tops": kernels.TOPS,
        }

    @property
    def caches(self) -> Sizes:
        """Sizes of the keys and values of every layer."""
        size = attention.cache_size(self._shape, self._precision, self._capacity_tokens)
        return {f"{name}_{index}": size for index in range(self._shape.layers) for name in ("keys", "values")}

    def packed(self, weights: ModelWeights) -> Iterator[tuple[str, NDArray[Any]]]:
        """The arrays that the kernels read, by name and in the order of the parameters."""
        return packed_weights(weights, self._precision, self._matrices, self._capacity_tokens)

    def module(self, weights: Sizes) -> tvm.IRModule:
        """The module with `step` and the bursts; weights: sizes of what `packed` yields."""
        writer = _ModuleWriter(self, self.state | self.scratch | weights | self.caches, self._shape.layers)
        writer.step()
        for count in range(1, self._longest_burst + 1):
            writer.burst(count)
            writer.sampled_burst(count)
        return writer.builder.get()

    def kernel(self, name: str) -> Any:
        """The kernel of that name."""
        shape, precision, capacity = self._shape, self._precision, self._capacity_tokens
        epsilon, logits = self._numerics.norm_eps, self.state["logits"]
        ids: Size | None = None if shape.draft_vocab is None else ((shape.draft_vocab,), "int64")
        match name:
            case "embed":
                return kernels.embed(precision, shape.vocab, shape.hidden)
            case "qkv":
                angles: Size = ((capacity, shape.head_dim // 2), "float32")
                cache = attention.cache_size(shape, precision, capacity)
                sizes = {"cosines": angles, "sines": angles, "query": self.scratch["query"]}
                sizes |= {"keys": cache, "values": cache}
                rotate = partial(epilogues.rotate, shape, precision)
                return kernels.matmul(self._matrices[name], rotate, epsilon, **sizes)
            case "attend":
                return attention.attend(shape, precision, capacity)
            case "join":
                return attention.join(shape, precision, capacity)
            case "o" | "down":
                return kernels.matmul(self._matrices[name], epilogues.add, y=kernels.rows_of(shape.hidden))
            case "gate_up":
                return kernels.matmul(self._matrices[name], epilogues.gate, epsilon, y=kernels.rows_of(shape.ffn))
            case "head":
                return kernels.matmul(self._matrices[name], epilogues.store, epsilon, y=logits)
            case "argmax":
                return kernels.argmax(shape.head_rows, logits)
            case "choose":
                return kernels.choose(0, ids)
            case "choose_next":
                return kernels.choose(self._longest_burst, ids)
            case "draw":
                return sampling.draw(shape.head_rows, self._longest_burst, logits, ids)
        raise ValueError(f"no kernel {name!r}")


class _ModuleWriter:
    """A module in the making; kernels are added when they are first used."""

    def __init__(self, model: CudaDecoder, sizes: Sizes, layers: int):
        self.builder = relax.BlockBuilder()
        self._model, self._sizes, self._layers = model, sizes, layers
        self._kernels: dict[str, Any] = {}
        self._decode = self._define_decode()

    def step(self) -> None:
        """Adds the function `step`."""
        given = self._parameters()
        with self.builder.function("step", list(given.values())):
            logits = self.builder.emit(relax.Call(self._decode, list(given.values())))
            tops = self._run("argmax", [logits, given["state"], given["tops"]])
            self.builder.emit_func_output(self._run("choose", [tops, given["state"], *_ids(given), given["after"]]))

    def burst(self, count: int) -> None:
        """Adds the function `burst_<count>`."""
        given = self._parameters()
        with self.builder.function(f"burst_{count}", list(given.values())):
            now = dict(given)
            for _ in range(count):
                logits = self.builder.emit(relax.Call(self._decode, list(now.values())))
                tops = self._run("argmax", [logits, now["state"], now["tops"]])
                self._update(now, "choose_next", {"tops": tops}, "state", *_IDS, "after", "drafted")
            self.builder.emit_func_output(now["drafted"])

    def sampled_burst(self, count: int) -> None:
        """Adds the function `sampled_burst_<count>`."""
        given = self._parameters()
        with self.builder.function(f"sampled_burst_{count}", list(given.values())):
            now = dict(given)
            for _ in range(count):
                logits = self.builder.emit(relax.Call(self._decode, list(now.values())))
                names = ("state", "dice", *_IDS, "distributions", "chosen", "drafted")
                self._update(now, "draw", {"logits": logits}, *names)
            self.builder.emit_func_output(relax.Tuple([now[name] for name in ("drafted", "chosen", "distributions")]))

    def _define_decode(self) -> Any:
        """Adds the function from `state` to `logits`; its name in the module."""
        given = self._parameters()
        with self.builder.function("decode", list(given.values())):
            state = given["state"]
            x = self._run("embed", [state, given["embed"], given["x"]])
            for index in range(self._layers):
                layer = {name: given[f"{name}_{index}"] for name in _LAYER}
                angles, caches = [given["cosines"], given["sines"]], [layer["keys"], layer["values"]]
                turned = [x, state, layer["attn_norm"], layer["qkv"], *angles, given["query"], *caches]
                query, *caches = self._run("qkv", turned, [6, 7, 8])
                parts = self._run("attend", [query, state, *caches, given["mixed"], given["peaks"]], [4, 5])
                attended = self._run("join", [*parts, state, given["attended"]])
                x = self._run("o", [attended, state, layer["o"], x])
                product = self._run("gate_up", [x, state, layer["ffn_norm"], layer["gate_up"], given["product"]])
                x = self._run("down", [product, state, layer["down"], x])
            logits = self._run("head", [x, state, given["norm"], given["head"], given["logits"]])
            return self.builder.emit_func_output(logits)

    def _update(self, now: dict[str, Any], kernel: str, first: dict[str, Any], *names: str) -> None:
        """Runs a kernel with `first` and the buffers of these names, of which it updates all but what is only read."""
        present = [name for name in names if name in now]
        places = [place for place, name in enumerate([*first, *present]) if name in _UPDATED]
        made = self._run(kernel, [*first.values(), *(now[name] for name in present)], places)
        now |= dict(zip((name for name in present if name in _UPDATED), made, strict=True))

    def _run(self, name: str, arguments: Sequence[Any], written: Sequence[int] = ()) -> Any:
        """What the kernel makes of what it updates in place: the last argument, unless others are named."""
        places = list(written) or [len(arguments) - 1]
        types = [arguments[index].ty for index in places]
        call = relax.op.call_tir_inplace(self._kernel(name), list(arguments), places, types if written else types[0])
        result = self.builder.emit(call)
        return [self.builder.emit(relax.TupleGetItem(result, i)) for i in range(len(written))] if written else result

    def _kernel(self, name: str) -> Any:
        """The kernel of that name in the module."""
        if name not in self._kernels:
            function = self._model.kernel(name).with_attr("global_symbol", name)
            self._kernels[name] = self.builder.add_func(function, name)
        return self._kernels[name]

    def _parameters(self) -> dict[str, Any]:
        """Fresh variables for all buffers."""
        return {name: relax.Var(name, relax.TensorType(size, dtype)) for name, (size, dtype) in self._sizes.items()}


_LAYER = ("attn_norm", "qkv", "o", "ffn_norm", "gate_up", "down", "keys", "values")
_IDS = ("ids",)
_UPDATED = ("state", "after", "distributions", "chosen", "drafted")


def _ids(given: dict[str, Any]) -> list[Any]:
    """The tokens of a trimmed head's rows, if it is trimmed."""
    return [given[name] for name in _IDS if name in given]
