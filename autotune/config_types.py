"""Values that can be written in several ways, with what the JSON Schema says of them."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from autotune.candidate import Precision
from autotune.units import parse_count, parse_duration, parse_size

_NUMBER = r"([0-9]+(\.[0-9]*)?|\.[0-9]+)"
_DURATION_FORM = {"type": "string", "pattern": rf"^\s*({_NUMBER}|({_NUMBER}\s*(us|µs|μs|ms|s|min|m|h|d)\s*)+)\s*$"}
_SIZE_FORM = {"type": "string", "pattern": rf"^\s*{_NUMBER}\s*([kKmMgGtT]?[iI]?[bB]?)\s*$"}
_COUNT_FORM = {"type": "string", "pattern": r"^\s*[0-9.,]+\s*[kKmMgGtTbB]?\s*$"}
_AMOUNT = {"type": "number", "minimum": 0}
_WHOLE = {"type": "integer", "minimum": 0}
_COMMAS = {"type": "string", "pattern": "[^\\s,]"}


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _weights(value: object) -> object:
    """The weights written as `code=2,chat=1`; a table (of TOML) as it is."""
    if not isinstance(value, str):
        return value
    weights: dict[str, float] = {}
    for part in value.split(","):
        name, _, weight = (piece.strip() for piece in part.rpartition("="))
        try:
            number = float(weight)
        except ValueError:
            name = ""
        if not name or name in weights:
            raise ValueError("write every category once with its weight, such as code=2,chat=1")
        weights[name] = number
    return weights


def _either(*forms: dict[str, Any]) -> WithJsonSchema:
    """What the JSON Schema says of values that may be written in several ways."""
    return WithJsonSchema({"anyOf": list(forms)})


def _list_of(item: dict[str, Any]) -> WithJsonSchema:
    return _either(_COMMAS, {"type": "array", "items": item, "minItems": 1})


Duration = Annotated[
    float, BeforeValidator(parse_duration), Field(ge=0, allow_inf_nan=False), _either(_DURATION_FORM, _AMOUNT)
]
Size = Annotated[int, BeforeValidator(parse_size), _either(_SIZE_FORM, _WHOLE)]
Count = Annotated[int, BeforeValidator(parse_count), _either(_COUNT_FORM, _WHOLE)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split), Field(min_length=1), _list_of({"type": "string"})]
Batches = Annotated[
    tuple[Annotated[int, Field(ge=1, le=1024)], ...],
    BeforeValidator(_split),
    Field(min_length=1),
    _list_of({"type": "integer", "minimum": 1, "maximum": 1024}),
]
Weights = Annotated[
    dict[str, float],
    BeforeValidator(_weights),
    _either({"type": "string"}, {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}}),
]
Precisions = Annotated[
    tuple[Precision, ...],
    BeforeValidator(_split),
    Field(min_length=1),
    _list_of({"enum": [precision.value for precision in Precision]}),
]
