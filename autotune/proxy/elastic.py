"""The `elastic` estimator: one shared training of the source, after which any shape's weights are a slice.

The source's units are first permuted by importance, which leaves its function as it was and makes every prefix the
best sub-network of its size.  Then each training step draws one sub-shape and trains that prefix on the target's
traces, so that all shapes recover together (slimmable networks, Yu et al. 1812.08928; once-for-all, Cai et al.
1908.09791).  Shapes that lack little of the source and lose by it are taken as they were (`autotune.proxy.better`).
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor

from autotune.cache import new_folder
from autotune.candidate import DraftShape
from autotune.errors import BadRequest
from autotune.proxy.base import Axes, Preparation
from autotune.proxy.batches import Batches
from autotune.proxy.better import BetterOf
from autotune.proxy.criteria import Importance, calibrate
from autotune.proxy.holdout import split_held_out
from autotune.proxy.launch import run_job
from autotune.proxy.loss_choice import Loss
from autotune.proxy.network import Network
from autotune.proxy.parts import budget_tokens, draw_part, mean_parameters, training_steps
from autotune.proxy.place import HERE, Place
from autotune.proxy.prune import calibration_sequences, prepare_pruned
from autotune.proxy.training import Note, Progress, Recipe, logger, part_loss, torch_threads
from autotune.proxy.training_job import TrainingJob, TrainingObjective, Watch
from autotune.proxy.units import check_inside, prefix, select
from autotune.traces import Traces
from autotune.weights import ModelWeights
from autotune.weights_io import load_weights, save_weights

ELASTIC_RECIPE = Recipe(learning_rate=3e-3)


@dataclass(frozen=True)
class ElasticSettings:
    """How much and how to train; part of the result's cache key."""

    tokens: int
    """Training tokens (see `budget_tokens`)."""
    seed: int = 0
    recipe: Recipe = ELASTIC_RECIPE
    place: Place = HERE
    loss: Loss | None = None
    """What is minimised; the best for such traces if None."""


@checked_dataclass(frozen=True)
class ElasticReport:
    """How the shared training went."""

    tokens: int
    wall_s: float
    diverged_at_step: int | None

    @property
    def caution(self) -> str | None:
        """What must be said of the training, if anything."""
        if self.diverged_at_step is None:
            return None
        return (
            f"the elastic training stopped at step {self.diverged_at_step}, as its loss became NaN or infinite; drafts "
            "are cut from the last good weights: try another --seed"
        )


_REPORT = TypeAdapter(ElasticReport)


class ElasticSource:
    """A trained source whose prefixes are drafts."""

    name = "elastic"

    def __init__(self, ordered: ModelWeights, report: ElasticReport) -> None:
        self.ordered = ordered
        self.report = report

    def weights(self, shape: DraftShape) -> ModelWeights:
        """The first units of every kind that make up `shape`."""
        check_inside(self.ordered.shape, shape)
        return prefix(self.ordered, shape)

    def save(self, folder: Path) -> None:
        """Write the trained weights and the report into the folder."""
        save_weights(self.ordered, folder)
        (folder / "elastic.json").write_bytes(_REPORT.dump_json(self.report))

    @staticmethod
    def load(folder: Path) -> "ElasticSource":
        """What `save` wrote."""
        return ElasticSource(load_weights(folder), _REPORT.validate_json((folder / "elastic.json").read_bytes()))


def order(source: ModelWeights, importance: Importance) -> ModelWeights:
    """The same function with every layer's heads and channels, and the hidden dimensions, the most important first."""
    layers = [importance.best(layer, source.shape) for layer in range(source.shape.layers)]
    return select(source, layers, importance.best_hidden(source.shape.hidden))


def train_elastic(
    source: ModelWeights,
    traces: Traces,
    axes: Axes,
    settings: ElasticSettings,
    work_folder: Path,
    on_progress: Progress | None = None,
    on_note: Note = logger.warning,
) -> ElasticSource:
    """The source, ordered and trained on the traces; continues a training that `work_folder` holds the start of."""
    _check_axes(source.shape, axes)
    recipe = settings.recipe
    mean = mean_parameters(source.shape, axes)
    steps = training_steps(settings.tokens, mean, "the elastic budget", recipe.batch_tokens)
    began = time.perf_counter()
    learned, _ = split_held_out(traces)

    def ordered() -> ModelWeights:
        with torch_threads(settings.place.threads):
            return order(source, calibrate(source, calibration_sequences(learned)))

    how = {"axes": asdict(axes), "seed": settings.seed}
    job = TrainingJob(f"{__name__}:elastic_objective", how, learned, steps, recipe, settings.seed, settings.loss)
    watch = Watch(on_progress or (lambda _: None), on_note)
    trained = run_job(job, ordered, settings.place, work_folder=work_folder, watch=watch)
    report = ElasticReport(steps * recipe.batch_tokens, time.perf_counter() - began, trained.diverged_at_step)
    return ElasticSource(Network(source.shape, source.numerics, trained.tensors).to_weights(), report)


def elastic_objective(network: Network, batches: Batches, settings: Mapping[str, Any]) -> TrainingObjective:
    """The loss of the sub-shape that each step draws; settings: the axes and the seed."""
    axes, seed = TypeAdapter(Axes).validate_python(settings["axes"]), settings["seed"]
    temperature = batches.settings.temperature

    def loss_at(step: int) -> Tensor:
        part = draw_part(network.shape, axes, seed, step)
        return part_loss(network, batches.at(step), part, temperature)

    return TrainingObjective(loss_at)


def prepare_elastic(preparation: Preparation) -> BetterOf:
    """Slices of the trained source, or the pruned drafts themselves where the training made them worse."""
    return BetterOf(
        trained_source(preparation), prepare_pruned(preparation), preparation.traces, preparation.place.threads
    )


def trained_source(preparation: Preparation) -> ElasticSource:
    """The trained source kept in the preparation's folder, trained first if it is not there."""
    kept = preparation.folder / "source"
    if kept.is_dir():
        trained = ElasticSource.load(kept)
        if trained.report.caution:
            preparation.on_note(trained.report.caution)
        return trained
    tokens = budget_tokens(preparation.budget_s, mean_parameters(preparation.source.shape, preparation.axes))
    settings = ElasticSettings(tokens, preparation.seed, place=preparation.place, loss=preparation.loss)
    work = preparation.folder / "work"
    trained = train_elastic(
        preparation.source,
        preparation.traces,
        preparation.axes,
        settings,
        work,
        preparation.on_progress,
        preparation.on_note,
    )
    with new_folder(kept) as folder:
        trained.save(folder)
    shutil.rmtree(work, ignore_errors=True)  # the checkpoint has served its purpose
    return trained


def _check_axes(source: DraftShape, axes: Axes) -> None:
    """Raise BadRequest unless every value of every axis fits into the source."""
    for name, values in vars(axes).items():
        if not values:
            raise BadRequest(f"there is no value of {name} to train: widen the search space")
    for heads, kv_heads in axes.heads:
        largest = replace(source, layers=max(axes.layers), ffn=max(axes.ffn), hidden=max(axes.hidden))
        check_inside(source, replace(largest, heads=heads, kv_heads=kv_heads))
