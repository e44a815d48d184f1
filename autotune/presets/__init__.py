"""Models and drafts known by name: `models.toml`, read once and checked entry by entry."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from autotune.errors import BadRequest, did_you_mean
from autotune.families import describe_config
from autotune.shape import DraftShape
from autotune.weights import Numerics

_FILE = Path(str(files("autotune.presets"))) / "models.toml"


@dataclass(frozen=True)
class Preset:
    """A published model: what its config.json says, and where it is to be had."""

    id: str
    repository: str
    tokenizer: str
    """Repository of its tokenizer."""
    source: str
    """Preset that drafts for it are cut from by default."""
    licence: str
    gated: bool
    pickled: bool
    """Whether its repository has no safetensors, so that its weights must be converted before they are used."""
    shape: DraftShape
    numerics: Numerics

    @property
    def family(self) -> str:
        """Name of its family."""
        return self.numerics.family


@dataclass(frozen=True)
class NamedDraft:
    """A draft's shape that has been published under a name."""

    id: str
    source: str
    """Preset it was cut from."""
    shape: DraftShape


@dataclass(frozen=True)
class Presets:
    """All entries by name, in the order of the file."""

    models: Mapping[str, Preset]
    drafts: Mapping[str, NamedDraft]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    repository: str
    licence: str
    config: dict[str, Any]
    source: str | None = None
    tokenizer: str | None = None
    gated: bool = False
    pickled: bool = False


class _Draft(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    source: str
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    ffn: int


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    models: dict[str, _Model]
    drafts: dict[str, _Draft] = {}


@cache
def presets() -> Presets:
    """The models and drafts that are known by name."""
    return read_presets(_FILE)


def read_presets(path: Path) -> Presets:
    """The entries of a presets file; BadRequest names the entry that is wrong."""
    try:
        written = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        fault = error.errors()[0]
        raise BadRequest(f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
    except (OSError, ValueError) as error:  # not there, not UTF-8, not TOML
        raise BadRequest(f"{path} cannot be read: {error}") from None
    models = {name: _preset(name, model, path) for name, model in written.models.items()}
    for name, entry in (written.models | written.drafts).items():
        if entry.source is not None and entry.source not in models:
            raise BadRequest(f"{path}: {name}: its source {entry.source!r} is not among the models")
    drafts = {name: _draft(name, draft, models[draft.source], path) for name, draft in written.drafts.items()}
    return Presets(models, drafts)


def find_draft(name: str) -> NamedDraft:
    """The draft of that name; BadRequest suggests the nearest ones."""
    drafts = presets().drafts
    if name not in drafts:
        near = did_you_mean(name, drafts) or f"known are {', '.join(drafts)}"
        raise BadRequest(f"unknown draft {name!r}: {near}")
    return drafts[name]


def _preset(name: str, model: _Model, path: Path) -> Preset:
    shape, numerics = describe_config(model.config, path / name)
    return Preset(
        id=name,
        repository=model.repository,
        tokenizer=model.tokenizer or model.repository,
        source=model.source or name,
        licence=model.licence,
        gated=model.gated,
        pickled=model.pickled,
        shape=shape,
        numerics=numerics,
    )


def _draft(name: str, draft: _Draft, source: Preset, path: Path) -> NamedDraft:
    sizes = draft.model_dump(exclude={"source"})
    try:
        return NamedDraft(name, draft.source, replace(source.shape, **sizes))
    except ValueError as error:
        raise BadRequest(f"{path}: {name}: {error}") from None
