"""From what a run found to the artifact on disk: a validated pair, a draft nobody decoded yet, or a plan.

The verdict "do not speculate" ships too.
"""

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from autotune.artifact import (
    CHECKPOINT_FOLDER,
    CONFIG_FOLDER,
    DRAFT_FOLDER,
    PLAN_FILE,
    TOKENIZER_FOLDER,
    ArtifactKind,
    DraftDescription,
    Figures,
    Manifest,
    Provenance,
    TargetIdentity,
    write_artifact,
)
from autotune.batch_schedule import Schedule
from autotune.batching import lookahead_schedule
from autotune.by_category import lookahead_by_category
from autotune.candidate import Build, Drafting, DraftShape
from autotune.category_results import CategoryOutcome
from autotune.families import checkpoint_config, write_checkpoint
from autotune.families.checkpoint import CONFIG_FILE
from autotune.finalists import Finalist
from autotune.lookup_results import Decoded, LookupFirstOutcome, LookupOutcome
from autotune.objective import ObjectiveKind
from autotune.plan import plan_text
from autotune.provenance import command_words, git_revision
from autotune.results import KernelTuning, Measured, Score, TrialRecord, Validated
from autotune.stopping import AdaptivePlan
from autotune.targets import Target, TextModel
from autotune.tokenizer import tokenizer_files
from autotune.workbench import Workbench


def ship(
    bench: Workbench,
    winner: tuple[Finalist, Validated] | None,
    destination: Path,
    versions: Mapping[str, str],
    tuning: KernelTuning | None = None,
    schedule: Schedule | None = None,
    outcomes: Sequence[CategoryOutcome] = (),
    adaptive: AdaptivePlan | None = None,
    lookup: LookupOutcome | LookupFirstOutcome | None = None,
) -> Manifest:
    """Write the artifact: the winner's program, checkpoint and tokenizer, or the verdict k = 0 without a draft.

    lookup: what drafts without a model: where no draft is worth its memory, and there is no winner; or before it.
    tuning: what tuning the winner's kernels came to; the winner's program is the tuned one already if it was kept.
    outcomes: the winner's, by category.
    adaptive: what chooses the winner's lookahead round by round.
    """
    finalist, validated = winner or (None, None)
    lookahead, figures = (validated.lookahead, _figures(validated)) if validated else (0, None)
    if lookup is not None:
        lookahead, figures = lookup.best.lookahead, _decoded_figures(lookup.best, lookup.decoded)
    manifest = _manifest(
        bench,
        lookahead,
        versions,
        draft=_describe(validated.build, validated.drafting) if validated else None,
        figures=figures,
        notes=(*_objective_notes(bench), *_trimmed_notes(validated.build.shape)) if validated else (),
        tuning=tuning,
        schedule=schedule,
        outcomes=outcomes,
    )
    manifest = replace(
        manifest,
        adaptive=adaptive,
        model_free=lookup.lookup if lookup else None,
        model_free_lookahead=lookup.lookup_lookahead if isinstance(lookup, LookupFirstOutcome) else None,
    )
    return write_artifact(destination, manifest, lambda folder: _fill(bench, finalist, folder))


def ship_unvalidated(
    bench: Workbench,
    finalist: Finalist | None,
    destination: Path,
    versions: Mapping[str, str],
    schedule: Schedule | None = None,
    outcomes: Sequence[CategoryOutcome] = (),
) -> Manifest:
    """Write the artifact of a draft that is ready but was not decoded with its target, or of the verdict k = 0.

    outcomes: the draft's, by category.
    """
    target = bench.request.target.id
    notes: tuple[str, ...] = (
        f"Not validated: the weights of {target} were not there, so no draft was decoded with it. Where they are, "
        "`autotune bench ARTIFACT --target FOLDER` decodes with both and measures the speed-up.",
    )
    if finalist:
        notes += (
            f"For another engine that serves {target}, {CHECKPOINT_FOLDER}/ holds the draft as a Hugging Face "
            f"checkpoint: start the engine with it as the draft model and {finalist.score.lookahead} speculative "
            "tokens, and compare its throughput with and without.",
            *_objective_notes(bench),
            *_trimmed_notes(finalist.record.build.shape),
        )
    manifest = _manifest(
        bench,
        finalist.score.lookahead if finalist else 0,
        versions,
        draft=_describe(finalist.record.build, finalist.drafting) if finalist else None,
        figures=_predicted(finalist.score) if finalist else None,
        notes=notes,
        kind=ArtifactKind.UNVALIDATED,
        schedule=schedule,
        outcomes=outcomes,
    )
    return write_artifact(destination, manifest, lambda folder: _fill(bench, finalist, folder))


def ship_plan(
    bench: Workbench,
    chosen: tuple[TrialRecord, Score],
    destination: Path,
    versions: Mapping[str, str],
    schedule: Schedule | None = None,
) -> Manifest:
    """Write a plan: the shape and k to make, its Hugging Face config, and the commands that make it."""
    record, score = chosen
    build, request = record.build, bench.request
    drafting = record.outcome.burst.drafting if isinstance(record.outcome, Measured) else None
    manifest = _manifest(
        bench,
        score.lookahead,
        versions,
        draft=_describe(build, drafting),
        figures=_predicted(score),
        notes=(
            f"A plan, with no weights: {PLAN_FILE} says how to make the draft. Its tokens per round are a stand-in and "
            f"say nothing about {request.target.id}.",
        ),
        kind=ArtifactKind.PLAN,
        schedule=schedule,
    )

    def fill(folder: Path) -> None:
        (folder / CONFIG_FOLDER).mkdir()
        whole = replace(build.shape, draft_vocab=None)
        config = checkpoint_config(whole, request.source.numerics)
        (folder / CONFIG_FOLDER / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        (folder / PLAN_FILE).write_text(plan_text(request, build, score), encoding="utf-8")

    return write_artifact(destination, manifest, fill)


def _manifest(
    bench: Workbench,
    lookahead: int,
    versions: Mapping[str, str],
    *,
    draft: DraftDescription | None,
    figures: Figures | None,
    notes: tuple[str, ...],
    kind: ArtifactKind = ArtifactKind.PAIR,
    tuning: KernelTuning | None = None,
    schedule: Schedule | None = None,
    outcomes: Sequence[CategoryOutcome] = (),
) -> Manifest:
    request = bench.request
    target = request.target
    text = target if isinstance(target, TextModel) else None
    return Manifest(
        target=TargetIdentity(
            id=target.id,
            fingerprint=target.fingerprint if isinstance(target, Target) else None,
            tokenizer_fingerprint=text.tokenizer_fingerprint if text else None,
            backend=request.target_backend,
            device=request.device.kind,
            precision=request.target_precision,
        ),
        lookahead=lookahead,
        # Of one sequence, what was decided; a batch that was not measured has no entry rather than a guess.
        lookahead_schedule=((1, 1, lookahead), *(lookahead_schedule(schedule.entries)[1:] if schedule else ())),
        draft=draft,
        figures=figures,
        device=request.device.fingerprint,
        threads=bench.threads,
        eos_ids=text.eos_ids if text else (),
        provenance=Provenance(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=shlex.join(command_words()),
            seed=request.config.seed,
            git_revision=git_revision(),
            versions=dict(versions),
            kernel_tuning=tuning,
        ),
        notes=notes,
        kind=kind,
        lookahead_by_category=dict(lookahead_by_category(outcomes)),
        batches=schedule.entries if schedule else (),
    )


def _fill(bench: Workbench, finalist: Finalist | None, folder: Path) -> None:
    """Program and checkpoint of the draft, if there is one, and the tokenizer."""
    if finalist:
        shutil.copytree(finalist.program, folder / DRAFT_FOLDER)
        (folder / CHECKPOINT_FOLDER).mkdir()
        write_checkpoint(finalist.whole, folder / CHECKPOINT_FOLDER, like=bench.request.whole_source.checkpoint)
    (folder / TOKENIZER_FOLDER).mkdir()
    for path in tokenizer_files(bench.request.text_target.tokenizer_folder):
        shutil.copyfile(path, folder / TOKENIZER_FOLDER / path.name)


def _describe(build: Build, drafting: Drafting | None) -> DraftDescription:
    shape = build.shape
    return DraftDescription(shape, shape.parameters, build.backend, build.precision, drafting or Drafting.CALLS)


def _objective_notes(bench: Workbench) -> tuple[str, ...]:
    """What the manifest's figures are of, where they are not those of all text together."""
    objective = bench.request.objective
    match objective.kind:
        case ObjectiveKind.MEAN:
            return ()
        case ObjectiveKind.WORST:
            return ("Figures are those of the workload's worst category, and the speed-up is the smallest of any.",)
        case ObjectiveKind.WEIGHTED:
            shares = ", ".join(f"{share:.0%} {name}" for name, share in objective.weights)
            return (f"Figures are the weighted mean of the workload's categories, for tokens that are {shares}.",)


def _trimmed_notes(shape: DraftShape) -> tuple[str, ...]:
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


def _decoded_figures(score: Score, decoded: Decoded | None) -> Figures:
    """The figures of what drafts with a lookup."""
    predicted = _predicted(score)
    if decoded is None:
        return predicted
    return replace(
        predicted,
        tokens_per_round_measured=decoded.tar,
        tokens_per_s_measured=decoded.tokens_per_s,
        speedup_measured=decoded.speedup,
    )


def _predicted(score: Score) -> Figures:
    """The figures of a draft that was not decoded."""
    return Figures(
        tokens_per_round_estimated=score.tokens_per_round,
        tokens_per_round_measured=None,
        tokens_per_s_predicted=score.tokens_per_s,
        tokens_per_s_measured=None,
        speedup_predicted=score.speedup,
        speedup_measured=None,
        break_even_tokens_per_round=score.break_even,
    )
