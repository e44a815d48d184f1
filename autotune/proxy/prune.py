"""The `pruned` estimator: structured pruning by importance, without any training."""

from dataclasses import replace

import numpy as np

from autotune.candidate import DraftShape
from autotune.proxy.base import Preparation
from autotune.proxy.criteria import Importance, TokenIds, calibrate
from autotune.proxy.units import Indices, check_inside, pick_layers, select
from autotune.shape import Norm
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
        hidden = np.sort(self.importance.best_hidden(shape.hidden))
        units = [self.importance.best(layer, shape).in_source_order() for layer in kept]
        pruned = select(self.source, units, hidden)
        return replace(pruned, arrays={**pruned.arrays, **self._corrected_norms(pruned, kept, hidden)})

    def _corrected_norms(self, pruned: ModelWeights, kept: tuple[int, ...], hidden: Indices) -> dict[str, FloatArray]:
        """Norm gains, and biases of LayerNorms, `[hidden]` with which kept dimensions leave norms as in the source.

        Norms measure the dimensions they see.  The kept ones, being the more active, have a larger root mean square
        (or deviation) than all of them together: gains grow by that ratio.  The mean that a LayerNorm subtracts is
        another one too; biases make up for the difference.  This holds wherever norms stand.  Where they come last,
        none stands before the head, which then reads kept dimensions as the last layer's corrected norm leaves them.
        """
        style, every = self.source.shape.style, np.arange(self.source.shape.hidden)
        mean, scale = self.importance.norm_statistics(style, hidden)
        whole_mean, whole_scale = self.importance.norm_statistics(style, every)
        ratio, shift = scale / whole_scale, (mean - whole_mean) / whole_scale
        norms = {
            f"layers.{position}.{name}": 2 * layer + offset
            for position, layer in enumerate(kept)
            for offset, name in enumerate(("attn.norm", "ffn.norm"))
        }
        if style.norm_first:
            norms["norm"] = -1
        corrected = {name: pruned.arrays[name] * ratio[index] for name, index in norms.items()}
        if style.norm is Norm.LAYER:
            for name, index in norms.items():
                corrected[f"{name}.bias"] = pruned.arrays[f"{name}.bias"] + pruned.arrays[name] * shift[index]
        return corrected


def calibration_sequences(traces: Traces) -> list[TokenIds]:
    """Prompts and continuations of the first few traces: the text importance is judged on."""
    return [np.concatenate([trace.prompt, trace.continuation]) for trace in traces.items[:CALIBRATION_TRACES]]


def prepare_pruned(preparation: Preparation) -> PrunedEstimator:
    """The estimator, calibrated on the training traces."""
    importance = calibrate(preparation.source, calibration_sequences(preparation.traces))
    return PrunedEstimator(preparation.source, importance)
