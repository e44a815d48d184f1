"""What the shell offers behind an option.  A key press must not wait, so nothing heavy is imported here: tests hold
these names to the registries they come from."""

import tomllib
from collections.abc import Callable
from pathlib import Path

Completion = Callable[[str], list[str]]

DEVICES = ("cpu", "cuda")
BACKENDS = ("onnxruntime", "tvm")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")
KINDS = ("burst", "target", "slices", "acceptance")
"""Of entries of the tuning database."""
RUNNERS = ("autotune", "transformers")
"""Of local targets whose traces are recorded."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "device": DEVICES,
    "sampler": ("auto", "tpe", "nsga2", "gp", "random"),
    "objective": ("mean", "worst", "weighted"),
    "proxy": ("pruned", "recovered", "elastic", "learned-mask"),
    "loss": ("auto", "ce", "kl", "tv", "log", "sharp", "ce+kl", "ce+tv", "kl+tv"),
    "train_device": ("auto", *DEVICES),
    "target_precision": PRECISIONS,
    "target_backend": BACKENDS,
}
_LISTS = {"backend": BACKENDS, "precision": PRECISIONS}


def choices_of(key: str) -> tuple[str, ...]:
    """The names that a setting of a run is chosen from; empty where it is not chosen by name."""
    return _CHOICES.get(key) or _LISTS.get(key, ())


def complete_setting(key: str) -> Completion | None:
    """What completes a setting of a run; None leaves it to the shell, which offers files."""
    if key in ("target", "source"):
        return complete_model
    if key in _LISTS:
        return lambda incomplete: among_list(_LISTS[key], incomplete)
    return among(_CHOICES[key]) if key in _CHOICES else None


def among(names: tuple[str, ...]) -> Completion:
    """What completes one of these names."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


def among_list(names: tuple[str, ...], incomplete: str) -> list[str]:
    """The ways to go on with a list of names between commas, each of which may be named once."""
    *done, begun = incomplete.split(",")
    return [",".join([*done, name]) for name in names if name.startswith(begun) and name not in done]


def complete_model(incomplete: str) -> list[str]:
    """The models known by name that begin so."""
    return [name for name in ("demo", *_presets()["models"]) if name.startswith(incomplete)]


def complete_shown(incomplete: str) -> list[str]:
    """The names that `autotune targets show` knows and that begin so: of models and of drafts."""
    return complete_model(incomplete) + [name for name in _presets()["drafts"] if name.startswith(incomplete)]


def _presets() -> dict[str, dict[str, object]]:
    """The file of presets as it is, unchecked."""
    return tomllib.loads((Path(__file__).parent / "presets" / "models.toml").read_text(encoding="utf-8"))
