"""From a validated winner to the artifact on disk; the verdict "do not speculate" ships too."""

import shlex
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from autotune.artifact import (
    CHECKPOINT_FOLDER,
    DRAFT_FOLDER,
    TOKENIZER_FOLDER,
    DraftDescription,
    Figures,
    Manifest,
    Provenance,
    TargetIdentity,
    write_artifact,
)
from autotune.candidate import Drafting
from autotune.families import write_checkpoint
from autotune.prepare import Workbench
from autotune.provenance import command_words, git_revision
from autotune.results import KernelTuning, Validated
from autotune.tokenizer import tokenizer_files
from autotune.validate import Finalist


def ship(
    bench: Workbench,
    winner: tuple[Finalist, Validated] | None,
    destination: Path,
    versions: Mapping[str, str],
    tuning: KernelTuning | None = None,
) -> Manifest:
    """Write the artifact: the winner's program, checkpoint and tokenizer, or the verdict k = 0 without a draft.

    tuning: what tuning the winner's kernels came to; the winner's program is the tuned one already if it was kept.
    """
    target = bench.request.target
    finalist, validated = winner or (None, None)
    manifest = Manifest(
        target=TargetIdentity(
            id=target.id,
            fingerprint=target.fingerprint,
            tokenizer_fingerprint=target.tokenizer_fingerprint,
            backend=bench.request.config.backend[0],
            device=bench.request.device.kind,
            precision=bench.request.target_precision,
        ),
        lookahead=validated.lookahead if validated else 0,
        # Only batch 1 is decoded and measured so far; a larger batch has no entry rather than a guess.
        lookahead_schedule=((1, 1, validated.lookahead if validated else 0),),
        draft=_describe(validated) if validated else None,
        figures=_figures(validated) if validated else None,
        device=bench.request.device.fingerprint,
        threads=bench.threads,
        eos_ids=target.eos_ids,
        provenance=Provenance(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=shlex.join(command_words()),
            seed=bench.request.config.seed,
            git_revision=git_revision(),
            versions=dict(versions),
            kernel_tuning=tuning,
        ),
        notes=_notes(validated) if validated else (),
    )

    def fill(folder: Path) -> None:
        if finalist:
            shutil.copytree(finalist.program, folder / DRAFT_FOLDER)
            (folder / CHECKPOINT_FOLDER).mkdir()
            write_checkpoint(finalist.whole, folder / CHECKPOINT_FOLDER, like=bench.request.source.checkpoint)
        (folder / TOKENIZER_FOLDER).mkdir()
        for path in tokenizer_files(target.checkpoint):
            shutil.copyfile(path, folder / TOKENIZER_FOLDER / path.name)

    return write_artifact(destination, manifest, fill)


def _describe(validated: Validated) -> DraftDescription:
    build = validated.build
    drafting = validated.drafting or Drafting.CALLS
    return DraftDescription(build.shape, build.shape.parameters, build.backend, build.precision, drafting)


def _notes(validated: Validated) -> tuple[str, ...]:
    shape = validated.build.shape
    if shape.draft_vocab is None:
        return ()
    return (
        f"The draft proposes only {shape.draft_vocab} of {shape.vocab} tokens, the most frequent ones of the training "
        f"traces ({DRAFT_FOLDER}/program.json lists them). {CHECKPOINT_FOLDER}/ holds the same draft with its whole "
        "vocabulary, which other engines need: there its steps take longer, and more tokens may be accepted.",
    )


def _figures(validated: Validated) -> Figures:
    return Figures(
        tokens_per_round_estimated=validated.tar_estimated,
        tokens_per_round_measured=validated.tar_measured,
        tokens_per_s_predicted=validated.tokens_per_s_predicted,
        tokens_per_s_measured=validated.tokens_per_s_measured,
        speedup_predicted=validated.speedup_predicted,
        speedup_measured=validated.speedup_measured,
    )
