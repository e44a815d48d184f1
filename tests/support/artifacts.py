"""An artifact with a draft for the demo, without a search: for tests of the runtime."""

import shutil
from dataclasses import replace
from pathlib import Path

from autotune.artifact import DraftDescription, Manifest, Provenance, TargetIdentity, write_artifact
from autotune.candidate import Lookup, Precision
from autotune.compile.base import CompileSettings, build_program
from autotune.families import write_checkpoint
from autotune.proxy.units import pick_layers
from autotune.stopping import AdaptivePlan
from autotune.targets import Target, resolve_target
from autotune.tokenizer import tokenizer_files
from autotune.weights import ModelWeights, TokenIds, trimmed


def artifact_of_demo(
    folder: Path,
    layers: int = 6,
    lookahead: int = 3,
    device: str = "cpu",
    precision: Precision = Precision.FP32,
    token_ids: TokenIds | None = None,
    schedule: tuple[tuple[int, int, int], ...] | None = None,
    adaptive: AdaptivePlan | None = None,
    lookup: Lookup | None = None,
    lookup_lookahead: int | None = None,
) -> Path:
    """The demo's first layers and its last one as a draft for itself, its program trimmed to the token ids, if any."""
    target = resolve_target("demo")
    weights = target.read_weights()
    kept = pick_layers(target.shape.layers, layers)
    shape = replace(target.shape, layers=layers)
    arrays = {name: array for name, array in weights.arrays.items() if not name.startswith("layers.")}
    for index, layer in enumerate(kept):
        prefix = f"layers.{layer}."
        names = [name for name in weights.arrays if name.startswith(prefix)]
        arrays |= {f"layers.{index}.{name.removeprefix(prefix)}": weights.arrays[name] for name in names}
    whole = ModelWeights(shape, weights.numerics, arrays)
    draft = whole if token_ids is None else trimmed(whole, token_ids)
    manifest = replace(
        _manifest(target, lookahead, device, precision),
        lookahead_schedule=schedule or ((1, 1, lookahead),),
        draft=DraftDescription(draft.shape, draft.shape.parameters, "onnxruntime", precision),
        adaptive=adaptive,
        model_free=lookup,
        model_free_lookahead=lookup_lookahead,
    )

    def fill(into: Path) -> None:
        settings = CompileSettings(precision, target.numerics.context_tokens, device)
        build_program("onnxruntime", draft, settings, into / "draft")
        write_checkpoint(whole, into / "checkpoint", like=target.checkpoint)
        _tokenizer(target, into)

    write_artifact(folder, manifest, fill)
    return folder


def artifact_without_draft(folder: Path, lookup: Lookup, lookahead: int) -> Path:
    """An artifact of the demo that drafts without a model."""
    target = resolve_target("demo")
    manifest = replace(_manifest(target, lookahead, "cpu", Precision.FP32), model_free=lookup)
    write_artifact(folder, manifest, lambda into: _tokenizer(target, into))
    return folder


def _manifest(target: Target, lookahead: int, device: str, precision: Precision) -> Manifest:
    return Manifest(
        target=TargetIdentity(
            target.id, target.fingerprint, target.tokenizer_fingerprint, device=device, precision=precision
        ),
        lookahead=lookahead,
        lookahead_schedule=((1, 1, lookahead),),
        draft=None,
        figures=None,
        device=device,
        threads=1,
        eos_ids=target.eos_ids,
        provenance=Provenance("2026-01-01T00:00:00+00:00", "test", 0, None, {}),
    )


def _tokenizer(target: Target, into: Path) -> None:
    (into / "tokenizer").mkdir()
    for path in tokenizer_files(target.checkpoint):
        shutil.copyfile(path, into / "tokenizer" / path.name)
