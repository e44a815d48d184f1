"""What an estimator of draft weights must do, and the registry of estimators."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from autotune.candidate import DraftShape
from autotune.errors import unknown_name
from autotune.proxy.loss_choice import Loss
from autotune.proxy.place import HERE, Place
from autotune.weights import ModelWeights

if TYPE_CHECKING:
    from autotune.traces import Traces


logger = logging.getLogger(__name__)


class Estimator(Protocol):
    """Gives weights to any draft shape that fits into the source."""

    name: str

    def weights(self, shape: DraftShape) -> ModelWeights:
        """The weights of a draft of this shape; BadRequest if it does not fit into the source."""


@dataclass(frozen=True)
class Axes:
    """The sub-shapes a shared training draws from; other shapes inside the source may still be asked for."""

    layers: tuple[int, ...]
    heads: tuple[tuple[int, int], ...]
    """Allowed pairs (heads, kv_heads)."""
    ffn: tuple[int, ...]
    hidden: tuple[int, ...]


@dataclass(frozen=True)
class Preparation:
    """What estimators may need to get ready; each takes what it uses."""

    source: ModelWeights
    traces: "Traces"
    """Training traces; their settings are the workload's."""
    axes: Axes
    budget_s: float
    """Seconds of training on the reference core; turned into a fixed number of tokens."""
    folder: Path
    """Keyed by the content of all the above: what was trained is kept here, and taken up again if interrupted."""
    seed: int = 0
    place: Place = HERE
    """Where it trains; of no matter to what does not."""
    loss: Loss | None = None
    """What trainings minimise; the best for such traces if None."""
    candidate_tokens: int = 0
    """Training tokens for each draft, of estimators that train drafts one by one."""
    on_phase: Callable[[str], None] = field(default=lambda _: None)
    """Told what is done now, where that is not all that preparing does."""
    on_progress: Callable[[float], None] = field(default=lambda _: None)
    on_note: Callable[[str], None] = logger.warning


class Training(StrEnum):
    """What an estimator trains, and with which budget."""

    NONE = "none"
    SHARED = "shared"
    """One source of all drafts, for `--elastic-budget`."""
    EACH = "each"
    """Every draft by itself, for `--recover-tokens`."""


@dataclass(frozen=True)
class EstimatorEntry:
    """An estimator by its name in the registry: what a run must know of it before it is imported."""

    prepare: str
    """`module:function` that gets it ready."""
    title: str
    """Of the phase in which it does."""
    training: Training = Training.NONE
    source_copies: int = 1
    """Memory it takes at most, as a multiple of the source's fp32 weights: what is trained takes four, with its
    gradients and two moments."""


ESTIMATORS = {
    "pruned": EstimatorEntry("autotune.proxy.prune:prepare_pruned", "Preparing the pruned proxy"),
    "recovered": EstimatorEntry(
        "autotune.proxy.recover:prepare_recovered", "Preparing the recovered proxy", Training.EACH, source_copies=5
    ),
    "elastic": EstimatorEntry(
        "autotune.proxy.elastic:prepare_elastic", "Training the elastic source", Training.SHARED, source_copies=4
    ),
    "learned-mask": EstimatorEntry(
        "autotune.proxy.learned_mask:prepare_learned_mask",
        "Preparing the learned masks",
        Training.EACH,
        source_copies=6,  # its copy in order of importance, and weights with masks folded in
    ),
}
"""Every estimator; a further one is one entry here."""


def find_estimator(name: str) -> EstimatorEntry:
    """The estimator of that name; BadRequest if there is none."""
    if name not in ESTIMATORS:
        raise unknown_name("proxy", name, ESTIMATORS)
    return ESTIMATORS[name]


def prepare_estimator(name: str, preparation: Preparation) -> Estimator:
    """The estimator of that name, ready for any shape; BadRequest if there is none of that name."""
    module, _, function = find_estimator(name).prepare.partition(":")
    estimator: Estimator = getattr(import_module(module), function)(preparation)
    return estimator
