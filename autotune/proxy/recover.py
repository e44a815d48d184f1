"""The `recovered` estimator: each draft is pruned, then distilled for a fixed number of tokens.

Tokens, not seconds: in equal time shallow drafts learn from more text than deep ones, which turns their order round.
"""

from pathlib import Path

from autotune.candidate import DraftShape
from autotune.proxy.base import Preparation
from autotune.proxy.finish import distilled
from autotune.proxy.kept import KeptDrafts
from autotune.proxy.parts import CANDIDATE_BATCH_TOKENS
from autotune.proxy.prune import prepare_pruned
from autotune.proxy.training import Recipe
from autotune.proxy.units import check_inside
from autotune.weights import ModelWeights

RECOVER_RECIPE = Recipe(learning_rate=2e-3, batch_tokens=CANDIDATE_BATCH_TOKENS)


class RecoveredEstimator:
    """Gives every shape its pruned weights after a short training of their own, or as they were if it did not help."""

    name = "recovered"

    def __init__(self, preparation: Preparation, recipe: Recipe = RECOVER_RECIPE) -> None:
        self._preparation = preparation
        self._recipe = recipe
        self._pruned = prepare_pruned(preparation)
        self._kept = KeptDrafts(preparation.folder, self._make)

    def weights(self, shape: DraftShape) -> ModelWeights:
        """The draft of that shape, trained now unless it was trained before."""
        check_inside(self._preparation.source.shape, shape)
        return self._kept.weights(shape)

    def _make(self, shape: DraftShape, work_folder: Path) -> ModelWeights:
        preparation, recipe = self._preparation, self._recipe
        steps = preparation.candidate_tokens // recipe.batch_tokens
        return recover(self._pruned.weights(shape), preparation, steps, recipe, preparation.seed, work_folder)


def recover(
    draft: ModelWeights, preparation: Preparation, steps: int, recipe: Recipe, seed: int, work_folder: Path
) -> ModelWeights:
    """The draft after so many steps, or as it was if they did not help; goes on with what the folder holds."""
    preparation.on_phase(f"Recovering {draft.shape}")
    return distilled(
        draft,
        preparation.traces,
        steps,
        f"the recovery of {draft.shape}",
        seed=seed,
        place=preparation.place,
        recipe=recipe,
        loss=preparation.loss,
        work_folder=work_folder,
        on_progress=preparation.on_progress,
        on_note=preparation.on_note,
    ).weights


def prepare_recovered(preparation: Preparation) -> RecoveredEstimator:
    """The estimator; nothing is trained before a draft is asked for."""
    return RecoveredEstimator(preparation)
