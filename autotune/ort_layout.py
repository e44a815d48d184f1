"""The files of a program compiled for ONNX Runtime, and the kinds of drawing they are named after."""

from collections.abc import Iterator
from enum import StrEnum

MODEL_FILE = "model.onnx"
"""One step: any number of new tokens to logits and arg-max tokens."""
WEIGHTS_FILE = "weights.bin"
"""The arrays of every graph."""
MOST_NOISE = 1 - 2**-52
"""The largest number whose product with a sum of probabilities is surely below the sum."""


class Drawing(StrEnum):
    """How a program chooses the tokens it drafts."""

    GREEDY = "greedy"
    TEMPERATURE = "temperature"
    """Drawn from the softmax of logits over the temperature."""
    FILTERED = "filtered"
    """The same behind top-k, top-p or both; most of its work is wasted where nothing is filtered out."""


def sampler_file(drawing: Drawing) -> str:
    """The program that draws one token from a step's logits."""
    return f"sampler.{drawing}.onnx"


def burst_file(drawing: Drawing, count: int) -> str:
    """The program of a burst of `count` steps."""
    return f"burst.{drawing}.{count}.onnx"


def batch_file(batch: int) -> str:
    """One step of that many of the sequences of a program for several."""
    return f"batch.{batch}.onnx"


def drawings_in_bursts(device: str) -> tuple[Drawing, ...]:
    """How bursts as one program may draw on a kind of device.

    A GPU's call cannot be captured if it branches, as filters do; what is filtered is drawn by the host there, from the
    logits, and so is what is drawn call by call: there are no samplers.
    """
    return tuple(Drawing) if device == "cpu" else (Drawing.GREEDY, Drawing.TEMPERATURE)


def program_files(longest_burst: int, device: str = "cpu") -> Iterator[str]:
    """Every file of a program but its description (and the weights' index, for a GPU)."""
    yield MODEL_FILE
    yield WEIGHTS_FILE
    for drawing in drawings_in_bursts(device):
        if drawing is not Drawing.GREEDY and device == "cpu":
            yield sampler_file(drawing)
        for count in range(1, longest_burst + 1):
            yield burst_file(drawing, count)
