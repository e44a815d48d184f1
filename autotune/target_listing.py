"""What `autotune targets` tells of the models known by name, and of any other."""

import shlex
from dataclasses import asdict, dataclass
from typing import Any

from autotune import hub
from autotune.families.checkpoint import conversion_line, converted_folder
from autotune.number_formats import Precision
from autotune.presets import NamedDraft, Preset, find_draft, presets
from autotune.shape import DraftShape
from autotune.targets import DEMO, Blueprint, Target, default_source, find_model, preset_of, resolve_target
from autotune.weights import Numerics

_MEMORY = (Precision.FP32, Precision.BF16, Precision.INT4)
_GIB = 2**30


@dataclass(frozen=True)
class Listed:
    """One line of the list."""

    id: str
    family: str
    shape: DraftShape
    source: str
    """What drafts for it are cut from; of a named draft, what it was cut from."""
    repository: str
    licence: str
    here: bool
    """Whether its weights are on this machine."""

    def fields(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self) | {"parameters": self.shape.parameters}

    def row(self) -> dict[str, str]:
        """The columns of the printed list."""
        return {
            "name": self.id,
            "family": self.family,
            "parameters": parameter_words(self.shape.parameters),
            "shape": str(self.shape),
            "source": self.source,
            "here": "yes" if self.here else "no",
            "repository": self.repository,
            "licence": self.licence,
        }


@dataclass(frozen=True)
class Details:
    """All about one model."""

    model: Blueprint
    preset: Preset | None
    source: str
    searched: str
    """Where its weights were looked for."""
    here: str | None
    """The folder of its weights; None if they are not here."""
    source_here: bool
    """Whether the source's weights are on this machine."""

    @property
    def commands(self) -> dict[str, str]:
        """Command lines that convert or fetch what is not here, and that run it."""
        commands: dict[str, str] = {}
        names: list[str] = []
        fetch = False
        roles = (("target", self.model.id, self.here is not None), ("source", self.source, self.source_here))
        for role, name, here in roles if self.source != self.model.id else roles[:1]:
            preset = preset_of(name)
            if preset is not None and preset.pickled and not here:
                commands[f"convert {role}"] = conversion_line(preset.repository)
                names.append(converted_folder(preset.repository))
            else:
                names.append(name)
                fetch |= not here
        label = "then run" if commands else "fetch and run" if fetch else "run"
        commands[label] = _run_line(*names) + (" --download" if fetch else "")
        if not self.here:
            commands["plan without weights"] = _run_line(self.model.id, self.source)
        return commands

    def fields(self) -> dict[str, Any]:
        """Everything, for JSON."""
        preset = self.preset
        return {
            "id": self.model.id,
            "family": self.model.family,
            "shape": asdict(self.model.shape),
            "numerics": asdict(self.model.numerics),
            **_size_fields(self.model.shape),
            "repository": preset.repository if preset else None,
            "tokenizer": preset.tokenizer if preset else None,
            "licence": preset.licence if preset else None,
            "gated": preset.gated if preset else None,
            "pickled": preset.pickled if preset else None,
            "source": self.source,
            "searched": self.searched,
            "here": self.here,
            "commands": self.commands,
        }

    def lines(self) -> list[tuple[str, str]]:
        """Label and text of each printed line."""
        shape, numerics, preset = self.model.shape, self.model.numerics, self.preset
        lines = [
            ("name", self.model.id),
            ("family", self.model.family),
            *_size_lines(shape),
            ("positions", f"{numerics.context_tokens:,}, {_position_words(shape, numerics)}"),
        ]
        if preset is not None:
            gated = f" (gated: accept it on {hub.page(preset.repository)})" if preset.gated else ""
            pickled = " (pickled weights only, which must be converted first)" if preset.pickled else ""
            lines += [
                ("repository", preset.repository + pickled),
                ("tokenizer", preset.tokenizer),
                ("licence", preset.licence + gated),
            ]
        lines += [("source", self.source), ("looked for in", self.searched), ("here", self.here or "no")]
        return lines + list(self.commands.items())


@dataclass(frozen=True)
class DraftDetails:
    """All about one named draft shape."""

    draft: NamedDraft
    source: Preset
    target: Preset
    """One that drafts of that source are for."""

    @property
    def commands(self) -> dict[str, str]:
        """The command lines that try it."""
        return {"tried first in": _run_line(self.target.id, self.source.id)}

    def fields(self) -> dict[str, Any]:
        """Everything, for JSON."""
        shape = self.draft.shape
        return {
            "id": self.draft.id,
            "family": self.source.family,
            "shape": asdict(shape),
            **_size_fields(shape),
            "source": self.source.id,
            "commands": self.commands,
        }

    def lines(self) -> list[tuple[str, str]]:
        """Label and text of each printed line."""
        return [
            ("name", f"{self.draft.id}, a draft's shape"),
            ("family", self.source.family),
            *_size_lines(self.draft.shape),
            ("cut from", f"{self.source.id} (`autotune targets show {self.source.id}`)"),
            *self.commands.items(),
        ]


def list_models() -> list[Listed]:
    """The demo and all presets."""
    demo = resolve_target(DEMO)
    listed = [Listed(DEMO, demo.family, demo.shape, DEMO, "with this package", "Apache-2.0", here=True)]
    for preset in presets().models.values():
        here = hub.find_checkpoint(preset.repository) is not None
        licence = preset.licence + (" (gated)" if preset.gated else "")
        listed.append(
            Listed(preset.id, preset.family, preset.shape, preset.source, preset.repository, licence, here=here)
        )
    return listed


def named_drafts() -> list[Listed]:
    """The draft shapes that have names; their weights are made by cutting them from the source."""
    models = presets().models
    return [
        Listed(
            draft.id,
            models[draft.source].family,
            draft.shape,
            draft.source,
            "a shape, cut from its source",
            models[draft.source].licence,
            here=False,
        )
        for draft in presets().drafts.values()
    ]


def describe_model(name: str) -> Details:
    """All about the model of that name; BadRequest if there is none."""
    model, preset = find_model(name), preset_of(name)
    source = default_source(model) or model.id
    here = str(model.checkpoint) if isinstance(model, Target) else None
    repository = preset.repository if preset else name
    searched = here or f"{hub.cache_folder()} for {repository}"
    source_here = isinstance(model if source == model.id else find_model(source), Target)
    return Details(model, preset, source, searched, here, source_here)


def describe_draft(name: str) -> DraftDetails:
    """All about the draft shape of that name; BadRequest if there is none."""
    draft = find_draft(name)
    models = presets().models
    target = next(each for each in models.values() if each.source == draft.source and each.id != draft.source)
    return DraftDetails(draft, models[draft.source], target)


def is_draft(name: str) -> bool:
    """Whether a draft shape has that name."""
    return name in presets().drafts


def parameter_words(count: int) -> str:
    """A number of parameters in words."""
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.0f} M"


def _run_line(target: str, source: str | None = None) -> str:
    chosen = f" --source {shlex.quote(source)}" if source is not None and source != target else ""
    return f"autotune run --target {shlex.quote(target)}{chosen}"


def _size_fields(shape: DraftShape) -> dict[str, Any]:
    kv = shape.kv_bytes_per_token
    return {
        "parameters": shape.parameters,
        "weight_bytes": _weight_bytes(shape),
        "kv_bytes_per_token": {"fp32": kv, "bf16": kv // 2},
    }


def _size_lines(shape: DraftShape) -> list[tuple[str, str]]:
    kv = shape.kv_bytes_per_token
    return [
        ("parameters", f"{shape.parameters:,}"),
        ("shape", f"{shape}, head_dim {shape.head_dim}, vocabulary {shape.vocab:,}"),
        ("weights", ", ".join(f"{name} {_size_words(size)}" for name, size in _weight_bytes(shape).items())),
        ("KV cache", f"{kv / 1024:,.6g} KiB a token in fp32, {kv / 2048:,.6g} KiB in bf16"),
    ]


def _weight_bytes(shape: DraftShape) -> dict[str, int]:
    """Bytes of the weights by precision."""
    return {precision.value: shape.weight_bytes(precision) for precision in _MEMORY}


def _size_words(size_bytes: int) -> str:
    return f"{size_bytes / _GIB:,.1f} GiB" if size_bytes >= _GIB else f"{size_bytes / 2**20:,.1f} MiB"


def _position_words(shape: DraftShape, numerics: Numerics) -> str:
    if shape.style.learned_positions:
        return "learned"
    scaling = numerics.rope_scaling
    stretched = "" if scaling is None else f", stretched {scaling.factor:g} times"
    return f"rotary with base {numerics.rope_theta:,.0f}{stretched}"
