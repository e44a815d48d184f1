"""What `autotune targets` tells of the models known by name, and of any other."""

import shlex
from dataclasses import asdict, dataclass
from typing import Any

from autotune import hub
from autotune.number_formats import Precision
from autotune.presets import Preset, presets
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

    @property
    def commands(self) -> dict[str, str]:
        """Command lines that fetch it and that run it."""
        run = f"autotune run --target {shlex.quote(self.model.id)}"
        if self.source != self.model.id:
            run += f" --source {shlex.quote(self.source)}"
        if self.here:
            return {"run": run}
        return {"fetch and run": f"{run} --download", "plan without weights": run}

    @property
    def memory_bytes(self) -> dict[str, int]:
        """Bytes of its weights by precision."""
        return {precision.value: self.model.shape.weight_bytes(precision) for precision in _MEMORY}

    def fields(self) -> dict[str, Any]:
        """Everything, for JSON."""
        preset = self.preset
        return {
            "id": self.model.id,
            "family": self.model.family,
            "parameters": self.model.shape.parameters,
            "shape": asdict(self.model.shape),
            "numerics": asdict(self.model.numerics),
            "weight_bytes": self.memory_bytes,
            "kv_bytes_per_token": {
                "fp32": self.model.shape.kv_bytes_per_token,
                "bf16": self.model.shape.kv_bytes_per_token // 2,
            },
            "repository": preset.repository if preset else None,
            "tokenizer": preset.tokenizer if preset else None,
            "licence": preset.licence if preset else None,
            "gated": preset.gated if preset else None,
            "source": self.source,
            "searched": self.searched,
            "here": self.here,
            "commands": self.commands,
        }

    def lines(self) -> list[tuple[str, str]]:
        """Label and text of each printed line."""
        shape, numerics, preset = self.model.shape, self.model.numerics, self.preset
        kv = shape.kv_bytes_per_token
        memory = ", ".join(f"{name} {_size_words(size)}" for name, size in self.memory_bytes.items())
        lines = [
            ("name", self.model.id),
            ("family", self.model.family),
            ("parameters", f"{shape.parameters:,}"),
            ("shape", f"{shape}, head_dim {shape.head_dim}, vocabulary {shape.vocab:,}"),
            ("positions", f"{numerics.context_tokens:,}, {_position_words(shape, numerics)}"),
            ("weights", memory),
            ("KV cache", f"{kv / 1024:,.6g} KiB a token in fp32, {kv / 2048:,.6g} KiB in bf16"),
        ]
        if preset is not None:
            gated = f" (gated: accept it on {hub.page(preset.repository)})" if preset.gated else ""
            lines += [
                ("repository", preset.repository),
                ("tokenizer", preset.tokenizer),
                ("licence", preset.licence + gated),
            ]
        lines += [("source", self.source), ("looked for in", self.searched), ("here", self.here or "no")]
        return lines + list(self.commands.items())


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
    here = str(model.checkpoint) if isinstance(model, Target) else None
    repository = preset.repository if preset else name
    searched = here or f"{hub.cache_folder()} for {repository}"
    return Details(model, preset, default_source(model) or model.id, searched, here)


def parameter_words(count: int) -> str:
    """A number of parameters in words."""
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.0f} M"


def _size_words(size_bytes: int) -> str:
    return f"{size_bytes / _GIB:,.1f} GiB" if size_bytes >= _GIB else f"{size_bytes / 2**20:,.1f} MiB"


def _position_words(shape: DraftShape, numerics: Numerics) -> str:
    if shape.style.learned_positions:
        return "learned"
    scaling = numerics.rope_scaling
    stretched = "" if scaling is None else f", stretched {scaling.factor:g} times"
    return f"rotary with base {numerics.rope_theta:,.0f}{stretched}"
