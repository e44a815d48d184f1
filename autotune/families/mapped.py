"""Families whose checkpoints hold the canonical arrays one to one, under other names."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Generic

import numpy as np

from autotune.errors import BadRequest
from autotune.families.base import Config, architectures_of
from autotune.families.checkpoint import CONFIG_FILE, CheckpointTensors, read_config, same_values, write_files
from autotune.families.heads import with_heads
from autotune.families.settings import AnySettings, parse
from autotune.shape import DraftShape, weight_shapes
from autotune.weights import FloatArray, ModelWeights, Numerics

HEAD = "lm_head.weight"
_KEPT_FROM_LIKE = ("bos_token_id", "eos_token_id", "pad_token_id")


class MappedFamily(ABC, Generic[AnySettings]):
    """A family known by its settings and by a table of names; see `autotune.families.base.Family`."""

    name: str
    architectures: tuple[str, ...]
    model_type: ClassVar[str]
    settings: type[AnySettings]
    prefixes: ClassVar[tuple[str, ...]]
    """What may stand before every name but the head's, as the checkpoint was saved with a head or without; the first is
    written."""
    names: ClassVar[Mapping[str, str]]
    """Hugging Face names, without prefix and `.weight`, of the canonical ones without `layers.I.`."""
    unused_rows: ClassVar[Mapping[str, int]] = {}
    """Rows that lead the stored array of a canonical name and that the model never reads."""
    kept_from_like: ClassVar[tuple[str, ...]] = ()
    """Entries of config.json beside the token ids that are of use to whoever trains the checkpoint on."""

    @abstractmethod
    def entries(self, shape: DraftShape, numerics: Numerics) -> Mapping[str, Any]:
        """The entries of config.json, beside those of every family, that say what the model is."""

    def fitted_shape(self, shape: DraftShape) -> DraftShape | None:
        """The shape, with as many more heads as make config.json able to say it; None if none do."""
        return shape

    def matches(self, config: Config) -> bool:
        """Whether config.json names an architecture of the family or, naming none, its type of model."""
        return any(name in (*self.architectures, self.model_type) for name in architectures_of(config))

    def describe(self, folder: Path) -> tuple[DraftShape, Numerics]:
        """Shape and numerics of the checkpoint."""
        return self.describe_config(read_config(folder), folder / CONFIG_FILE)

    def describe_config(self, config: Config, source: Path) -> tuple[DraftShape, Numerics]:
        """Shape and numerics that the config, read from `source`, describes."""
        settings = parse(self.settings, config, source)
        return settings.shape(), settings.numerics(self.name)

    def read(self, folder: Path) -> ModelWeights:
        """The checkpoint's weights under canonical names."""
        settings = parse(self.settings, read_config(folder), folder / CONFIG_FILE)
        shape = settings.shape()
        tensors = CheckpointTensors(folder)
        prefix = next((each for each in self.prefixes if tensors.has_prefix(f"{each}layers.")), self.prefixes[0])
        stored = {name: self._name_under(prefix, name) for name, _ in weight_shapes(shape)}
        if settings.tie_word_embeddings:
            # As transformers does: one table may stand for both, but two that differ are not tied.
            embed, head = stored["embed"], stored["head"]
            if embed not in tensors and head in tensors:
                stored["embed"] = head
            elif head not in tensors or tensors.same(embed, head):
                stored["head"] = embed
        sizes = {name: self._stored_size(name, size) for name, size in weight_shapes(shape)}
        for name in ("embed", "head"):
            tensors.check_vocabulary(stored[name], shape.vocab)
        for name, size in sizes.items():  # all of them before the first is read
            tensors.check(stored[name], size)
        arrays: dict[str, FloatArray] = {}
        for name, size in sizes.items():
            if name == "head" and stored["head"] == stored["embed"]:
                arrays["head"] = arrays["embed"]
            else:
                arrays[name] = tensors.fp32(stored[name], size)[self.unused_rows.get(name, 0) :]
        return ModelWeights(shape, settings.numerics(self.name), arrays)

    def config(self, shape: DraftShape, numerics: Numerics, tied: bool = False, like: Path | None = None) -> Config:
        """The config.json of a checkpoint of such weights; BadRequest if there can be none."""
        fitted = self._fitted(replace(shape, draft_vocab=None))
        kept = read_config(like) if like is not None else {}
        config = {name: kept[name] for name in (*_KEPT_FROM_LIKE, *self.kept_from_like) if name in kept}
        config |= {**self._common_entries(fitted, tied), **self.entries(fitted, numerics)}
        self._check_says(config, fitted, numerics)
        return config

    def write(self, weights: ModelWeights, folder: Path, like: Path | None) -> None:
        """Write a checkpoint that transformers loads with the same logits (fp32)."""
        tied = same_values(weights.arrays["head"], weights.arrays["embed"])
        config = self.config(weights.shape, weights.numerics, tied, like)
        fitted = with_heads(weights, self._fitted(weights.shape))
        arrays = {
            self._name_under(self.prefixes[0], name): self._with_unused_rows(name, array)
            for name, array in fitted.arrays.items()
            if not (tied and name == "head")
        }
        write_files(folder, config, arrays, like)

    def _fitted(self, shape: DraftShape) -> DraftShape:
        fitted = self.fitted_shape(shape)
        if fitted is None:
            raise BadRequest(
                f"no {self.architectures[0]} checkpoint can have {shape.heads} heads of {shape.head_dim} with a hidden "
                f"size of {shape.hidden}: choose fewer heads or a larger hidden size"
            )
        return fitted

    def _common_entries(self, shape: DraftShape, tied: bool) -> dict[str, Any]:
        return {
            "architectures": [self.architectures[0]],
            "model_type": self.model_type,
            "vocab_size": shape.vocab,
            "hidden_size": shape.hidden,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "tie_word_embeddings": tied,
            "torch_dtype": "float32",
        }

    def _check_says(self, config: Config, shape: DraftShape, numerics: Numerics) -> None:
        """BadRequest unless the config, read again, describes this model."""
        said_shape, said = self.describe_config(config, Path(CONFIG_FILE))
        # The context is what the model is good for, not how it computes; learned positions have no rotary settings.
        meant = replace(numerics, context_tokens=said.context_tokens)
        if shape.style.learned_positions:
            meant = replace(meant, rope_theta=said.rope_theta, rope_scaling=said.rope_scaling)
        if (said_shape, said) != (shape, meant):
            raise BadRequest(
                f"no {self.architectures[0]} checkpoint can say what this model is: {shape!r} with {meant!r} would be "
                f"read as {said_shape!r} with {said!r}"
            )

    def _name_under(self, prefix: str, name: str) -> str:
        """The Hugging Face name of a canonical array."""
        if name == "head":
            return HEAD
        stem, kind = (name.removesuffix(".bias"), "bias") if name.endswith(".bias") else (name, "weight")
        if not stem.startswith("layers."):
            return f"{prefix}{self.names[stem]}.{kind}"
        _, index, part = stem.split(".", 2)
        return f"{prefix}layers.{index}.{self.names[part]}.{kind}"

    def _stored_size(self, name: str, size: tuple[int, ...]) -> tuple[int, ...]:
        return (size[0] + self.unused_rows.get(name, 0), *size[1:])

    def _with_unused_rows(self, name: str, array: FloatArray) -> FloatArray:
        unused = self.unused_rows.get(name, 0)
        return np.concatenate([np.zeros((unused, *array.shape[1:]), np.float32), array]) if unused else array
