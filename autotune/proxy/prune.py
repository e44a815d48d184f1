"""The `pruned` estimator: structured pruning by importance, without any training."""

from dataclasses import replace

import numpy as np

from autotune.candidate import DraftShape
from autotune.proxy.base import Preparation
from autotune.proxy.criteria import Importance, TokenIds, calibrate
from autotune.proxy.units import check_inside, pick_layers, select
from autotune.traces import Traces
from autotune.weights import FloatArray, ModelWeights

CALIBRATION_TRACES = 16


class PrunedEstimator:
    """Takes the most important units of the source and corrects its norms for the missing dimensions."""

    name = "pruned"

    def __init__(self, source: ModelWeights, importance: Importance) -> None:
        self.source = source
        self.importance = importance

    def weights(self, shape: DraftShape) -> ModelWeights:
        """The source's most important units that make up `shape`."""
        check_inside(self.source.shape, shape)
        kept = pick_layers(self.source.shape.layers, shape.layers)
        hidden = self.importance.best_hidden(shape.hidden)
        pruned = select(self.source, [self.importance.best(layer, shape) for layer in kept], hidden)
        return replace(pruned, arrays={**pruned.arrays, **self._corrected_norms(pruned, kept, hidden)})

    def _corrected_norms(
        self, pruned: ModelWeights, kept: tuple[int, ...], hidden: np.ndarray
    ) -> dict[str, FloatArray]:
        """Norm gains `[hidden]` scaled so that each kept dimension leaves a norm as large as it did in the source.

        RMSNorm divides by the root mean square over the dimensions it sees; the kept ones, being the more active,
        have a larger one than all of them together.
        """
        energy = self.importance.energy
        ratio = np.sqrt(energy[:, hidden].mean(axis=1) / energy.mean(axis=1))
        corrected = {"norm": pruned.arrays["norm"] * ratio[-1]}
        for position, layer in enumerate(kept):
            for offset, name in enumerate(("attn.norm", "ffn.norm")):
                corrected[f"layers.{position}.{name}"] = pruned.layer(position, name) * ratio[2 * layer + offset]
        return corrected


def calibration_sequences(traces: Traces) -> list[TokenIds]:
    """Prompts and continuations of the first few traces: the text importance is judged on."""
    return [np.concatenate([trace.prompt, trace.continuation]) for trace in traces.items[:CALIBRATION_TRACES]]


def prepare_pruned(preparation: Preparation) -> PrunedEstimator:
    """The estimator, calibrated on the training traces."""
    importance = calibrate(preparation.source, calibration_sequences(preparation.traces))
    return PrunedEstimator(preparation.source, importance)
