"""The entries of config.json that decide a model's arithmetic: typed, bounded, and refused in one line."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autotune.errors import BadRequest
from autotune.families.base import Config
from autotune.shape import DraftShape
from autotune.weights import Numerics

_MOST_PARAMETERS = 10**13
"""Ten times what the largest published models have; fp32 weights would take 40 TB."""

# Far above every published model, so that a damaged config is refused before anything is sized by it.
Layers = Annotated[int, Field(ge=1, le=10_000)]
Width = Annotated[int, Field(ge=1, le=1_000_000)]
FfnWidth = Annotated[int, Field(ge=1, le=10_000_000)]
Vocabulary = Annotated[int, Field(ge=1, le=100_000_000)]
Positions = Annotated[int, Field(ge=1, le=1_000_000_000)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


class Settings(BaseModel, ABC):
    """What every family's config.json has; defaults, here and in families, are those of transformers."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    vocab_size: Vocabulary
    hidden_size: Width
    num_hidden_layers: Layers
    num_attention_heads: Width
    tie_word_embeddings: bool = False
    quantization_config: dict[str, Any] | None = None

    @abstractmethod
    def shape(self) -> DraftShape:
        """The model's architecture; ValueError where no model can be built so."""

    @abstractmethod
    def numerics(self, family: str) -> Numerics:
        """What else its arithmetic needs."""

    def unsupported(self) -> Iterator[str]:
        """Settings this program cannot reproduce, in words."""
        if self.quantization_config is not None:
            yield "quantised weights (quantization_config)"

    def whole_head_dim(self) -> int:
        """The hidden size shared out among the heads; ValueError if it cannot be shared evenly."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} cannot be divided by num_attention_heads {self.num_attention_heads}"
            )
        return self.hidden_size // self.num_attention_heads


AnySettings = TypeVar("AnySettings", bound=Settings)


def parse(kind: type[AnySettings], config: Config, source: Path) -> AnySettings:
    """The settings of the config read from `source`; BadRequest where it is broken or asks for what is unsupported."""
    try:
        settings = kind.model_validate(config)
        shape = settings.shape()
    except ValidationError as error:
        raise BadRequest(f"{source}: {_first_of(error)}") from error
    except ValueError as error:
        raise BadRequest(f"{source}: {error}") from error
    for words in settings.unsupported():
        raise BadRequest(f"{source}: {words} is not supported")
    if shape.parameters > _MOST_PARAMETERS:
        raise BadRequest(
            f"{source} describes a model of {shape.parameters:.1e} parameters, more than this program believes "
            f"({_MOST_PARAMETERS:.0e}): fetch the checkpoint again"
        )
    return settings


def _first_of(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where, message = ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{where} is missing"
    if first["type"] == "value_error":  # one of ours, which says what it is about
        return message
    return f"{where} is {repr(first['input'])[:40]}: {message[0].lower()}{message[1:]}"
