"""What an estimator of draft weights must do, and the registry of estimators."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from autotune.candidate import DraftShape
from autotune.errors import BadRequest
from autotune.weights import ModelWeights

if TYPE_CHECKING:
    from autotune.traces import Traces


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
    threads: int = 1
    on_progress: Callable[[float], None] = field(default=lambda _: None)


ESTIMATORS = {
    "pruned": "autotune.proxy.prune:prepare_pruned",
    "elastic": "autotune.proxy.elastic:prepare_elastic",
}
"""`module:function` that gets each estimator ready; imported only when asked for."""


def prepare_estimator(name: str, preparation: Preparation) -> Estimator:
    """The estimator of that name, ready for any shape; BadRequest if there is none of that name."""
    if name not in ESTIMATORS:
        raise BadRequest(f"unknown proxy {name!r}; choose from: {', '.join(ESTIMATORS)}")
    module, _, function = ESTIMATORS[name].partition(":")
    estimator: Estimator = getattr(import_module(module), function)(preparation)
    return estimator
