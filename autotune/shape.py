"""A model's architecture: its sizes (`DraftShape`), how its layers are built (`Style`), and the weights they have."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from math import prod

from autotune.number_formats import Precision

Sizes = Mapping[str, tuple[int, ...]]


class Norm(StrEnum):
    """What normalises the residual stream."""

    RMS = "rms"
    LAYER = "layer"
    """Subtracts the mean too, and has a bias."""


@dataclass(frozen=True)
class Style:
    """How a decoder is built, which the search does not vary; LLaMA's way unless said otherwise."""

    norm: Norm = Norm.RMS
    norm_first: bool = True
    """Norms stand before attention and FFN, and one before the head; False: behind each residual sum, none at the
    end."""
    learned_positions: int = 0
    """Rows of a learned table of positions, added to the embeddings; 0: rotary embeddings."""
    gated: bool = True
    """The FFN is a SwiGLU, down(SiLU(gate) · up); False: down(ReLU(up))."""
    qk_norm: bool = False
    """Queries and keys are RMS-normed head by head before they are rotated."""
    biases: tuple[str, ...] = ()
    """Matrices of a layer that have a bias, by canonical name without the layer (`attn.q`)."""
    embed_dim: int | None = None
    """Width of the embedding table and of the head, where matrices lead from there to the hidden size and back."""


@dataclass(frozen=True)
class DraftShape:
    """A decoder-only transformer's architecture; also describes targets and sources.

    Heads are grouped: each of the `kv_heads` key/value heads serves `heads / kv_heads` query heads.
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    ffn: int
    vocab: int
    """Token ids the model reads: rows of its embedding table."""
    draft_vocab: int | None = None
    """Token ids a draft with a trimmed head can propose: rows of its head; None: all of `vocab`."""
    style: Style = field(default_factory=Style)

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.draft_vocab is not None and self.draft_vocab >= self.vocab:
            raise ValueError(f"a trimmed vocabulary of {self.draft_vocab} is not smaller than the {self.vocab} whole")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot be shared evenly by {self.kv_heads} kv heads")
        if self.head_dim % 2 and not self.style.learned_positions:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary embeddings need pairs")

    @property
    def embed_dim(self) -> int:
        """Width of the embedding table and of the head."""
        return self.style.embed_dim or self.hidden

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer, its norms and biases included."""
        return _elements(layer_weight_shapes(self))

    @property
    def head_rows(self) -> int:
        """Rows of the output head: tokens the model can emit."""
        return self.draft_vocab or self.vocab

    @property
    def parameters(self) -> int:
        """All parameters, with separate embedding and head."""
        return self.layers * self.layer_parameters + _elements(outer_weight_shapes(self))

    @property
    def decode_parameters(self) -> int:
        """Parameters read to decode one token: everything but the tables of embeddings and positions."""
        tables = {name: size for name, size in outer_weight_shapes(self).items() if name in TABLES}
        return self.parameters - _elements(tables)

    @property
    def matrix_parameters(self) -> int:
        """Parameters of matrices that are multiplied with: what quantisation shrinks."""
        layer = {name: size for name, size in layer_weight_shapes(self).items() if is_matrix(name, size)}
        outer = {name: size for name, size in outer_weight_shapes(self).items() if is_matrix(name, size)}
        return self.layers * _elements(layer) + _elements(outer)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of fp32 key/value cache one token occupies."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 4

    def weight_bytes(self, precision: Precision) -> int:
        """Bytes of the compiled weights."""
        rest = self.parameters - self.matrix_parameters
        return int(self.matrix_parameters * precision.weight_bytes + rest * precision.other_bytes)

    def __str__(self) -> str:
        heads = f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        trimmed = f"-{self.draft_vocab}V" if self.draft_vocab else ""
        return f"{self.layers}L-{heads}H-{self.ffn}F-{self.hidden}D{trimmed}"


TABLES = frozenset({"embed", "positions"})
"""Weights of which a token looks up one row."""


def is_matrix(name: str, size: tuple[int, ...]) -> bool:
    """Whether the weight of that canonical name and size is a matrix that activations are multiplied with."""
    return len(size) == 2 and name not in TABLES


def layer_weight_shapes(shape: DraftShape) -> Sizes:
    """Array shapes of one layer, by canonical name without the `layers.I.` prefix (see `autotune.weights`)."""
    query, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    style = shape.style
    sizes: dict[str, tuple[int, ...]] = {}

    def norm(name: str) -> None:
        sizes[name] = (shape.hidden,)
        if style.norm is Norm.LAYER:
            sizes[f"{name}.bias"] = (shape.hidden,)

    def matrix(name: str, outputs: int, inputs: int) -> None:
        sizes[name] = (outputs, inputs)
        if name in style.biases:
            sizes[f"{name}.bias"] = (outputs,)

    norm("attn.norm")
    for name, outputs in (("attn.q", query), ("attn.k", kv), ("attn.v", kv)):
        matrix(name, outputs, shape.hidden)
    if style.qk_norm:
        sizes |= {"attn.q_norm": (shape.head_dim,), "attn.k_norm": (shape.head_dim,)}
    matrix("attn.o", shape.hidden, query)
    norm("ffn.norm")
    if style.gated:
        matrix("ffn.gate", shape.ffn, shape.hidden)
    matrix("ffn.up", shape.ffn, shape.hidden)
    matrix("ffn.down", shape.hidden, shape.ffn)
    return sizes


def outer_weight_shapes(shape: DraftShape) -> Sizes:
    """Array shapes of everything outside the layers, by canonical name: what comes before them first."""
    style, width = shape.style, shape.embed_dim
    sizes: dict[str, tuple[int, ...]] = {"embed": (shape.vocab, width)}
    if style.embed_dim:
        sizes["embed.project"] = (shape.hidden, width)
    if style.learned_positions:
        sizes["positions"] = (style.learned_positions, shape.hidden)
    if style.norm_first:
        sizes["norm"] = (shape.hidden,)
        if style.norm is Norm.LAYER:
            sizes["norm.bias"] = (shape.hidden,)
    if style.embed_dim:
        sizes["head.project"] = (width, shape.hidden)
    return sizes | {"head": (shape.head_rows, width)}


def weight_shapes(shape: DraftShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every canonical name of a model of this shape, with its array's shape."""
    yield from outer_weight_shapes(shape).items()
    for index in range(shape.layers):
        for name, size in layer_weight_shapes(shape).items():
            yield f"layers.{index}.{name}", size


def _elements(sizes: Sizes) -> int:
    return sum(prod(size) for size in sizes.values())
