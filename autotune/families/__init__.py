"""Model families: Hugging Face checkpoints on one side, canonical weights on the other.

A new family is one module with a class that follows `families.base.Family`, and one line in `FAMILIES`.
"""

from pathlib import Path

from autotune.errors import BadRequest
from autotune.families.base import Config, Family, architectures_of
from autotune.families.checkpoint import read_config
from autotune.families.llama import Llama
from autotune.families.mistral import Mistral
from autotune.families.opt import Opt
from autotune.families.qwen import Qwen2, Qwen3
from autotune.shape import DraftShape
from autotune.weights import ModelWeights, Numerics

FAMILIES: tuple[Family, ...] = (Llama(), Mistral(), Qwen2(), Qwen3(), Opt())


def family_of(folder: Path) -> Family:
    """The family of the checkpoint in `folder`; BadRequest if none of ours reads it."""
    return _family_for(read_config(folder), folder)


def describe_config(config: Config, source: Path) -> tuple[DraftShape, Numerics]:
    """Shape and numerics that a config.json describes; BadRequest, naming `source`, if it is unsupported."""
    return _family_for(config, source).describe_config(config, source)


def read_checkpoint(folder: Path) -> ModelWeights:
    """The canonical fp32 weights of a Hugging Face checkpoint folder."""
    return family_of(folder).read(folder)


def checkpoint_config(shape: DraftShape, numerics: Numerics) -> Config:
    """The config.json of a checkpoint of such weights, with a head of its own; BadRequest if none can hold them."""
    return _family_named(numerics.family).config(shape, numerics, tied=False, like=None)


def write_checkpoint(weights: ModelWeights, folder: Path, like: Path | None = None) -> None:
    """Write the weights as a Hugging Face checkpoint of their own family (see `Family.write`).

    BadRequest if their head is trimmed: no such checkpoint can say which tokens its rows stand for.
    """
    if weights.token_ids is not None:
        raise BadRequest(
            f"a head trimmed to {weights.shape.head_rows} of {weights.shape.vocab} tokens cannot be written as a "
            "Hugging Face checkpoint: write the weights it was trimmed from"
        )
    _family_named(weights.numerics.family).write(weights, folder, like)


def _family_for(config: Config, source: Path) -> Family:
    for family in FAMILIES:
        if family.matches(config):
            return family
    known = ", ".join(name for family in FAMILIES for name in family.architectures)
    named = " ".join(architectures_of(config)[0].split())[:60]
    raise BadRequest(f"{source} is a {named}, which is not supported; supported: {known}")


def _family_named(name: str) -> Family:
    for family in FAMILIES:
        if family.name == name:
            return family
    raise BadRequest(f"no family {name!r}; known: {', '.join(family.name for family in FAMILIES)}")
