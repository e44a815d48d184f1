"""The `elastic` estimator: one shared training of the source, after which any shape's weights are a slice.

The source's units are first permuted by importance, which leaves its function as it was and makes every prefix the
best sub-network of its size.  Then each training step draws one sub-shape and trains that prefix on the target's
traces, so that all shapes recover together (slimmable networks, Yu et al. 1812.08928; once-for-all, Cai et al.
1908.09791).
"""

import logging
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as checked_dataclass

from autotune.cache import new_folder
from autotune.candidate import DraftShape
from autotune.errors import BadRequest
from autotune.proxy.base import Axes, Preparation
from autotune.proxy.batches import Batches
from autotune.proxy.criteria import Importance, calibrate
from autotune.proxy.network import Network, Part, network_of
from autotune.proxy.prune import calibration_sequences
from autotune.proxy.training import Progress, Recipe, part_loss, torch_threads, train
from autotune.proxy.units import check_inside, pick_layers, prefix, select
from autotune.traces import Traces
from autotune.weights import ModelWeights
from autotune.weights_io import load_weights, save_weights

logger = logging.getLogger(__name__)

REFERENCE_FLOPS = 16e9
"""Training arithmetic per second of the reference core that budgets in seconds are converted with."""


@dataclass(frozen=True)
class ElasticSettings:
    """How much and how to train; part of the result's cache key."""

    tokens: int
    """Training tokens (see `budget_tokens`)."""
    seed: int = 0
    whole_width_share: float = 0.4
    """Share of steps at full width and random depth: the shapes that win most often deserve most training."""
    recipe: Recipe = field(default_factory=Recipe)
    threads: int = 1


@checked_dataclass(frozen=True)
class ElasticReport:
    """How the shared training went."""

    tokens: int
    wall_s: float
    diverged_at_step: int | None


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


def budget_tokens(budget_s: float, parameters: float) -> int:
    """Training tokens that `budget_s` seconds on the reference core buy, for sub-networks of `parameters` on average.

    A pass forward and back takes 6 operations per parameter and token (Kaplan et al. 2001.08361).  The number
    depends on nothing measured: a slower or loaded machine takes longer and gets the same result.
    """
    return int(budget_s * REFERENCE_FLOPS / (6 * parameters))


def mean_parameters(
    source: DraftShape, axes: Axes, whole_width_share: float = ElasticSettings.whole_width_share
) -> float:
    """Parameters a training step computes with, on average over the sub-shapes it draws (embedding look-up excluded)."""
    depth = float(np.mean(axes.layers))
    widest = depth * replace(source, layers=1).layer_parameters + source.vocab * source.hidden
    narrow = [
        depth * shape.layer_parameters + shape.vocab * shape.hidden
        for heads, kv_heads in axes.heads
        for ffn in axes.ffn
        for hidden in axes.hidden
        for shape in [replace(source, heads=heads, kv_heads=kv_heads, ffn=ffn, hidden=hidden)]
    ]
    return whole_width_share * widest + (1 - whole_width_share) * float(np.mean(narrow))


def order(source: ModelWeights, importance: Importance) -> ModelWeights:
    """The same function with every layer's heads and channels, and the hidden dimensions, the most important first."""
    layers = [importance.best(layer, source.shape) for layer in range(source.shape.layers)]
    return select(source, layers, importance.best_hidden(source.shape.hidden))


def draw_part(source: DraftShape, axes: Axes, settings: ElasticSettings, step: int) -> Part:
    """The sub-network a training step works on: a function of the seed and the step."""
    rng = np.random.default_rng([settings.seed, step, 1])
    layers = pick_layers(source.layers, int(rng.choice(axes.layers)))
    heads, kv_heads = axes.heads[rng.integers(len(axes.heads))]
    part = Part(layers, heads, kv_heads, int(rng.choice(axes.ffn)), int(rng.choice(axes.hidden)))
    if rng.random() < settings.whole_width_share:
        return replace(part, heads=source.heads, kv_heads=source.kv_heads, ffn=source.ffn, hidden=source.hidden)
    return part


def train_elastic(
    source: ModelWeights,
    traces: Traces,
    axes: Axes,
    settings: ElasticSettings,
    work_folder: Path,
    on_progress: Progress | None = None,
) -> ElasticSource:
    """The source, ordered and trained on the traces; continues a training that `work_folder` holds the start of."""
    _check_axes(source.shape, axes)
    steps = settings.tokens // settings.recipe.batch_tokens
    if steps < 1:
        raise BadRequest(
            f"the elastic budget buys {settings.tokens} training tokens, less than one step of "
            f"{settings.recipe.batch_tokens}: give at least "
            f"{_smallest_budget_s(source.shape, axes, settings):.2g} s"
        )
    began = time.perf_counter()
    with torch_threads(settings.threads):
        ordered = order(source, calibrate(source, calibration_sequences(traces)))
        network = network_of(ordered, trainable=True)
        batches = Batches(traces.items, traces.settings, settings.recipe.batch_tokens, settings.seed)
        trained = train(
            network,
            lambda step: part_loss(
                network, batches.at(step), draw_part(source.shape, axes, settings, step), traces.settings.temperature
            ),
            steps,
            settings.recipe,
            work_folder=work_folder,
            on_progress=on_progress,
        )
    report = ElasticReport(steps * settings.recipe.batch_tokens, time.perf_counter() - began, trained.diverged_at_step)
    return ElasticSource(Network(source.shape, source.numerics, trained.tensors).to_weights(), report)


def prepare_elastic(preparation: Preparation) -> ElasticSource:
    """The trained source kept in the preparation's folder, trained first if it is not there."""
    kept = preparation.folder / "source"
    if kept.is_dir():
        return ElasticSource.load(kept)
    tokens = budget_tokens(preparation.budget_s, mean_parameters(preparation.source.shape, preparation.axes))
    settings = ElasticSettings(tokens, preparation.seed, threads=preparation.threads)
    work = preparation.folder / "work"
    trained = train_elastic(
        preparation.source, preparation.traces, preparation.axes, settings, work, preparation.on_progress
    )
    with new_folder(kept) as folder:
        trained.save(folder)
    return trained


def _smallest_budget_s(source: DraftShape, axes: Axes, settings: ElasticSettings) -> float:
    return (
        6 * mean_parameters(source, axes, settings.whole_width_share) * settings.recipe.batch_tokens / REFERENCE_FLOPS
    )


def _check_axes(source: DraftShape, axes: Axes) -> None:
    for values, name in ((axes.layers, "layers"), (axes.heads, "heads"), (axes.ffn, "ffn"), (axes.hidden, "hidden")):
        if not values:
            raise BadRequest(f"there is no value of {name} to train: widen the search space")
    for heads, kv_heads in axes.heads:
        for ffn, hidden in ((max(axes.ffn), max(axes.hidden)),):
            check_inside(
                source, replace(source, layers=max(axes.layers), heads=heads, kv_heads=kv_heads, ffn=ffn, hidden=hidden)
            )
