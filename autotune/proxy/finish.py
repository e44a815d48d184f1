"""Distilling one draft: the last training before it ships, and what recovers a draft that was pruned."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autotune.cache import content_key, source_hashes
from autotune.digests import weights_digest
from autotune.errors import TrainingDiverged
from autotune.proxy.batches import Batches
from autotune.proxy.holdout import split_held_out
from autotune.proxy.launch import run_job
from autotune.proxy.lesson_digest import lesson_digest
from autotune.proxy.loss_choice import Loss
from autotune.proxy.network import Network
from autotune.proxy.parts import budget_tokens, training_steps, whole_part
from autotune.proxy.place import HERE, Place
from autotune.proxy.score_traces import mean_acceptance
from autotune.proxy.training import Note, Progress, Recipe, part_loss
from autotune.proxy.training_job import TrainingJob, TrainingObjective, Watch
from autotune.traces import Traces
from autotune.weights import ModelWeights, TokenIds, trimmed

logger = logging.getLogger(__name__)

FINISH_RECIPE = Recipe(learning_rate=2e-3)


@dataclass(frozen=True)
class Finished:
    """The better of a draft before and after its last training."""

    weights: ModelWeights
    before: float
    """Mean acceptance probability of a drafted token on training traces that were held out."""
    after: float

    @property
    def improved(self) -> bool:
        """Whether the trained draft is the one kept."""
        return self.after > self.before


def finish(
    draft: ModelWeights,
    traces: Traces,
    budget_s: float,
    *,
    token_ids: TokenIds | None = None,
    seed: int = 0,
    place: Place = HERE,
    recipe: Recipe = FINISH_RECIPE,
    loss: Loss | None = None,
    checkpoints: Path | None = None,
    on_progress: Progress | None = None,
    on_note: Note = logger.warning,
) -> Finished:
    """The draft after `budget_s` reference seconds on the training traces, or as it was if that did not help.

    Both are judged on a tenth of the traces that neither this nor the shared training learns from; if the draft is to
    ship with a head trimmed to `token_ids`, as it will be then.  It is trained, and returned, with its whole head: what
    is right over all tokens is right among fewer, and other engines need the whole.  A training that diverges at once
    leaves the draft as it was.

    loss: what is minimised; the best for such traces if None.
    checkpoints: a folder for those of any finishes; one that was killed goes on where it stopped, and a finished one
    leaves nothing there.
    """
    tokens = budget_tokens(budget_s, draft.shape.decode_parameters)
    steps = training_steps(tokens, draft.shape.decode_parameters, "the finish", recipe.batch_tokens)
    settings = (budget_s, seed, asdict(recipe), loss, place.device, place.processes)
    work_folder = None if checkpoints is None else checkpoints / _content(draft, traces, settings)
    finished = distilled(
        draft,
        traces,
        steps,
        "the finish",
        token_ids=token_ids,
        seed=seed,
        place=place,
        recipe=recipe,
        loss=loss,
        work_folder=work_folder,
        on_progress=on_progress,
        on_note=on_note,
    )
    if work_folder is not None:
        shutil.rmtree(work_folder, ignore_errors=True)
    return finished


def distilled(
    draft: ModelWeights,
    traces: Traces,
    steps: int,
    what: str,
    *,
    token_ids: TokenIds | None = None,
    seed: int = 0,
    place: Place = HERE,
    recipe: Recipe = FINISH_RECIPE,
    loss: Loss | None = None,
    work_folder: Path | None = None,
    on_progress: Progress | None = None,
    on_note: Note = logger.warning,
) -> Finished:
    """The draft after `steps` steps, or as it was if they did not help (see `finish`); `what`: to say so.

    Continues a training that `work_folder` holds the start of.
    """
    if draft.token_ids is not None:
        raise ValueError("a trimmed head cannot be trained")
    learned, judged = split_held_out(traces)

    def acceptance(whole: ModelWeights) -> float:
        shipped = whole if token_ids is None else trimmed(whole, token_ids)
        return mean_acceptance(shipped, judged, place.threads)

    before = acceptance(draft)
    job = TrainingJob(f"{__name__}:whole_objective", {}, learned, steps, recipe, seed, loss)
    watch = Watch(on_progress or (lambda _: None), on_note)
    try:
        trained = run_job(job, lambda: draft, place, work_folder=work_folder, watch=watch)
    except TrainingDiverged as error:
        on_note(f"{what} changed nothing: {error}")
        return Finished(draft, before, before)
    result = Network(draft.shape, draft.numerics, trained.tensors).to_weights()
    after = acceptance(result)
    return Finished(result if after > before else draft, before, after)


def whole_objective(network: Network, batches: Batches, settings: Mapping[str, Any]) -> TrainingObjective:
    """The loss of a whole draft, whatever the settings."""
    part, temperature = whole_part(network.shape), batches.settings.temperature
    return TrainingObjective(lambda step: part_loss(network, batches.at(step), part, temperature))


def _content(draft: ModelWeights, traces: Traces, settings: object) -> str:
    """The content key of a training of a draft on traces."""
    return content_key(
        weights_digest(draft),
        lesson_digest(traces),
        traces.settings,
        settings,
        source_hashes("autotune.proxy"),
    )
