"""What a model family must know: its Hugging Face files on one side, canonical weights on the other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from autotune.shape import DraftShape
from autotune.weights import ModelWeights, Numerics

Config = Mapping[str, Any]
"""A parsed `config.json`; each family turns it into its own typed settings at once."""


class Family(Protocol):
    """One architecture in Hugging Face form.  Implementations are stateless."""

    name: str
    architectures: tuple[str, ...]
    """The `architectures` entries of config.json that it reads."""

    def matches(self, config: Config) -> bool:
        """Whether a checkpoint with this config belongs to the family."""

    def describe(self, folder: Path) -> tuple[DraftShape, Numerics]:
        """Shape and numerics, from config.json alone; BadRequest where it asks for something unsupported."""

    def describe_config(self, config: Config, source: Path) -> tuple[DraftShape, Numerics]:
        """The same of a config that is read already; errors name `source`."""

    def read(self, folder: Path) -> ModelWeights:
        """The checkpoint's canonical weights in fp32; BadRequest where it is unsupported or broken."""

    def config(self, shape: DraftShape, numerics: Numerics, tied: bool, like: Path | None) -> Config:
        """The config.json that `write` gives a model of this shape; BadRequest if no checkpoint can hold it.

        tied: its head is its embedding.
        """

    def write(self, weights: ModelWeights, folder: Path, like: Path | None) -> None:
        """Write config.json and model.safetensors that load in transformers with the same logits.

        `like`: a checkpoint folder whose token ids and generation config are taken over.
        """


def architectures_of(config: Config) -> tuple[str, ...]:
    """The architectures a config.json names; its `model_type` if it names none."""
    named = config.get("architectures") or [config.get("model_type", "model without architecture")]
    return tuple(str(name) for name in named) if isinstance(named, list) else (str(named),)
