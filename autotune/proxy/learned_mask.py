"""The `learned-mask` estimator: which units a draft keeps is learned together with their weights.

Sheared LLaMA's recipe (Xia et al. 2310.06694): masks of layers, heads, channels and hidden dimensions are trained with
the weights on the target's traces until they have the asked shape; the units that are left then train on.  Here a fixed
number of tokens serves both, so that drafts cost and may learn as much as those of `recovered`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from torch import Tensor

from autotune.candidate import DraftShape
from autotune.errors import TrainingDiverged
from autotune.proxy.base import Preparation
from autotune.proxy.batches import Batches
from autotune.proxy.criteria import calibrate
from autotune.proxy.elastic import order
from autotune.proxy.holdout import split_held_out
from autotune.proxy.kept import KeptDrafts
from autotune.proxy.launch import run_job
from autotune.proxy.loss_choice import Loss
from autotune.proxy.masked import masked, pruned_by
from autotune.proxy.masks import LARGEST_PARAMETER, Masks, masks_for
from autotune.proxy.network import Network, network_of
from autotune.proxy.parts import CANDIDATE_BATCH_TOKENS, whole_part
from autotune.proxy.place import HERE, Place
from autotune.proxy.prune import calibration_sequences
from autotune.proxy.recover import RECOVER_RECIPE, recover
from autotune.proxy.training import Companions, Recipe, part_loss
from autotune.proxy.training_job import TrainingJob, TrainingObjective, Watch
from autotune.proxy.units import check_inside
from autotune.traces import Traces
from autotune.weights import ModelWeights

_SHAPE = TypeAdapter(DraftShape)
_PARAMETER, _MULTIPLIER = "mask ", "multiplier "
"""What the names of a network's companions begin with."""


_SOURCE_RECIPE = Recipe(learning_rate=1e-3, batch_tokens=CANDIDATE_BATCH_TOKENS, warmup_steps=5)


@dataclass(frozen=True)
class MaskRecipe:
    """How masks are learned, and how long, of all the tokens that a draft is given.

    Tried on the demo with 131,072 tokens, for drafts of half the layers, heads and channels: with rates as high as
    Sheared LLaMA's (1 for masks and multipliers, over thousands of steps) all masks of a kind overshoot together, and
    drafts were no better than pruned ones that train for as many tokens (.70 … .75 of tokens accepted, against .75);
    with these they were (.75 … .78).  At 0.25 a step, a mask can go from open to shut in half of such a training.
    """

    masked_share: float = 0.25
    """Share of the tokens that masks are learned with; the draft that they leave is trained with the others."""
    weights: Recipe = _SOURCE_RECIPE
    """Of the source's weights meanwhile."""
    mask_rate: float = 0.25
    multiplier_rate: float = 0.5
    approach_share: float = 0.8
    """Share of the steps over which the constraint goes from the source's shape to the draft's."""
    draft: Recipe = RECOVER_RECIPE


@dataclass(frozen=True)
class Learned:
    """What masks came to."""

    draft: ModelWeights
    masks: Masks


class LearnedMaskEstimator:
    """Gives every shape the units and weights that a training under masks leaves of the source."""

    name = "learned-mask"

    def __init__(self, preparation: Preparation, recipe: MaskRecipe | None = None) -> None:
        self._preparation = preparation
        self._recipe = recipe or MaskRecipe()
        learned, _ = split_held_out(preparation.traces)
        self._ordered = order(preparation.source, calibrate(preparation.source, calibration_sequences(learned)))
        self._kept = KeptDrafts(preparation.folder, self._make)

    def weights(self, shape: DraftShape) -> ModelWeights:
        """The draft of that shape, trained now unless it was trained before."""
        check_inside(self._ordered.shape, shape)
        return self._kept.weights(shape)

    def _make(self, shape: DraftShape, work_folder: Path) -> ModelWeights:
        preparation, recipe = self._preparation, self._recipe
        steps = preparation.candidate_tokens // recipe.weights.batch_tokens
        mask_steps = max(round(steps * recipe.masked_share), 1)
        preparation.on_phase(f"Learning masks for {shape}")
        draft = learn_masks(
            self._ordered,
            shape,
            preparation.traces,
            mask_steps,
            recipe,
            seed=preparation.seed,
            place=preparation.place,
            loss=preparation.loss,
            work_folder=work_folder / "masks",
            watch=Watch(preparation.on_progress, preparation.on_note),
        ).draft
        if steps == mask_steps:
            return draft
        seed = preparation.seed + 1  # other batches than those the masks have seen
        return recover(draft, preparation, steps - mask_steps, recipe.draft, seed, work_folder / "draft")


def learn_masks(
    ordered: ModelWeights,
    shape: DraftShape,
    traces: Traces,
    steps: int,
    recipe: MaskRecipe,
    *,
    seed: int = 0,
    place: Place = HERE,
    loss: Loss | None = None,
    work_folder: Path | None = None,
    watch: Watch | None = None,
) -> Learned:
    """The draft of that shape that is left of a source, its units in order of importance, after `steps` steps.

    If the training diverges at once, the most important units are left as they were, and the watch is told so.
    """
    learned, _ = split_held_out(traces)
    watch = watch or Watch()
    settings = {"shape": asdict(shape), "seed": seed, "approach_steps": recipe.approach_share * steps}
    settings |= {"mask_rate": recipe.mask_rate, "multiplier_rate": recipe.multiplier_rate}
    job = TrainingJob(f"{__name__}:mask_objective", settings, learned, steps, recipe.weights, seed, loss)
    try:
        trained = run_job(job, lambda: ordered, place, work_folder=work_folder, watch=watch).tensors
    except TrainingDiverged as error:
        watch.on_note(f"masks for {shape} were not learned: {error}")
        trained = network_of(ordered).tensors
    masks = masks_for(ordered.shape, shape)
    parameters = {kind: trained.get(_PARAMETER + kind, begun) for kind, begun in masks.parameters.items()}
    masks = replace(masks, parameters=parameters)
    network = Network(ordered.shape, ordered.numerics, {name: trained[name] for name in ordered.arrays})
    return Learned(pruned_by(network, masks, shape), masks)


def mask_objective(network: Network, batches: Batches, settings: Mapping[str, Any]) -> TrainingObjective:
    """The loss of the network under masks that each step draws; masks and multipliers are trained beside it.

    settings: the shape, the seed, the steps in which the constraint reaches the shape, and the companions' rates.
    """
    masks = masks_for(network.shape, _SHAPE.validate_python(settings["shape"]), network.tensors["head"].device)
    part, temperature = whole_part(network.shape), batches.settings.temperature

    def loss_at(step: int) -> Tensor:
        under = masked(network, masks.drawn(settings["seed"], step))
        penalty = masks.penalty((step + 1) / settings["approach_steps"])
        return part_loss(under, batches.at(step), part, temperature) + penalty

    if not masks.parameters:
        return TrainingObjective(loss_at)
    parameters = {_PARAMETER + kind: tensor for kind, tensor in masks.parameters.items()}
    multipliers = {_MULTIPLIER + kind: tensor for kind, tensor in masks.multipliers.items()}
    companions = [
        Companions(parameters, settings["mask_rate"], bound=LARGEST_PARAMETER),
        Companions(multipliers, settings["multiplier_rate"], ascend=True),
    ]
    return TrainingObjective(loss_at, companions)


def prepare_learned_mask(preparation: Preparation) -> LearnedMaskEstimator:
    """The estimator; nothing is trained before a draft is asked for."""
    return LearnedMaskEstimator(preparation)
