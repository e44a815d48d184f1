"""Rotary settings of config.json: where transformers 4 and 5 put them, and the scalings that are reproduced."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from autotune.families.settings import Positions, PositiveFloat
from autotune.weights import Numerics, RopeScaling

DEFAULT_THETA = 10_000.0
_SUPPORTED = ("default", "linear", "llama3")


class RopeSettings(BaseModel):
    """The dictionary `rope_parameters` (transformers 5) or `rope_scaling` (4)."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    rope_type: str | None = None
    type: str | None = None
    rope_theta: PositiveFloat | None = None
    factor: PositiveFloat | None = None
    low_freq_factor: PositiveFloat | None = None
    high_freq_factor: PositiveFloat | None = None
    original_max_position_embeddings: Positions | None = None
    partial_rotary_factor: float = 1.0

    @property
    def kind(self) -> str:
        """The type of scaling; older configs call it `type`."""
        return self.rope_type or self.type or "default"

    @model_validator(mode="after")
    def _complete(self) -> "RopeSettings":
        needed = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}
        for name in needed.get(self.kind, ()):
            if getattr(self, name) is None:
                raise ValueError(f"rope type {self.kind!r} without {name}")
        low, high = self.low_freq_factor, self.high_freq_factor
        if self.kind == "llama3" and low is not None and high is not None and high <= low:
            raise ValueError(f"rope type 'llama3': high_freq_factor {high} must be larger than low_freq_factor {low}")
        return self

    def unsupported(self) -> Iterator[str]:
        """What cannot be reproduced, in words."""
        if any(isinstance(value, dict) for value in (self.model_extra or {}).values()):
            yield "rotary settings that differ between layers"
        if self.kind not in _SUPPORTED:
            yield f"rope type {self.kind!r} (only {', '.join(map(repr, _SUPPORTED))})"
        if self.partial_rotary_factor != 1.0:
            yield "partial rotary embeddings"

    def scaling(self, default_original_tokens: int) -> RopeScaling | None:
        """The scaling; `default_original_tokens`: the context it starts from, if the settings do not say."""
        if self.factor is None or self.kind == "default":
            return None
        if self.kind == "linear":
            return RopeScaling(self.factor)
        original = self.original_max_position_embeddings or default_original_tokens
        return RopeScaling(self.factor, self.low_freq_factor, self.high_freq_factor, original)


def rope_entries(numerics: Numerics) -> Mapping[str, Any]:
    """The entries of config.json that say the same: engines built on transformers 4 read the first two."""
    scaling = numerics.rope_scaling
    scaled = None if scaling is None else _scaling_entries(scaling)
    return {
        "rope_theta": numerics.rope_theta,
        "rope_scaling": scaled,
        "rope_parameters": {"rope_theta": numerics.rope_theta, **(scaled or {"rope_type": "default"})},
    }


def _scaling_entries(scaling: RopeScaling) -> dict[str, Any]:
    if scaling.original_context_tokens is None:
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_context_tokens,
    }
