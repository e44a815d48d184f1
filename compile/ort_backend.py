"""Compiles a decoder for ONNX Runtime: `model.onnx`, its arrays in `weights.bin`, and `program.json`.

On the CPU, floats are fp32.  On a GPU they are fp16 or bf16, the only ones that ONNX Runtime's fused attention has
there; `weights.json` then says where each array lies, since the session uploads them itself.

Precision int8 stores every matrix but the embedding as int8 with one scale per output channel (as unsigned bytes about
128 where the processor would add products of signed ones up in too few bits), and quantises activations at run time
with one scale per *call*: logits may therefore depend, slightly, on how many tokens share a call; int4 rounds
activations in blocks, by a kernel that depends on how many tokens there are.  That is harmless for a
draft, whose proposals are verified; a target is compiled in floats here, and quantised by TVM.  (MatMulNBits with 8
bits, the alternative, was as exact on trained weights, within 15 % of the speed at one token, half as fast at nine.)
"""

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import onnx

from autotune.candidate import QUANTISED, DraftShape, Precision
from autotune.compile.base import CompileSettings
from autotune.compile.graphs.burst import burst_graph, sampler_graph
from autotune.compile.graphs.decoder import GRAPH_VERSION, decoder_graph
from autotune.compile.graphs.external_data import ExternalData
from autotune.ort_layout import (
    MODEL_FILE,
    WEIGHTS_FILE,
    Drawing,
    batch_file,
    burst_file,
    drawings_in_bursts,
    sampler_file,
)
from autotune.ort_weights import StoredTensor, WeightsIndex
from autotune.program import Drafting, Program
from autotune.weights import ModelWeights

_PRECISIONS = {
    "cpu": frozenset({Precision.FP32, Precision.INT8, Precision.INT4}),
    "cuda": frozenset({Precision.FP16, Precision.BF16, Precision.INT4}),
}
RUNTIME_DISTRIBUTIONS = ("onnxruntime-gpu", "onnxruntime")
"""Packages that provide the module `onnxruntime`; the first one installed is the one that counts."""

MAX_BURST_BYTES = 32 << 20
"""ONNX Runtime packs a copy of the weights for every step of a burst, which together must fit a processor's last
cache.  Beyond that a burst has nothing to win: at 5 M and 15 M parameters it was level with calls within 3 %, at many
times their memory.  (Without packed copies it was a fifth slower there, and no faster at 0.3 M or 1 M.)"""
_FEWEST_STEPS = 2


class OrtBackend:
    """ONNX Runtime on the CPU and on NVIDIA's GPUs, from graphs built directly."""

    name = "onnxruntime"

    def precisions(self, device: str) -> frozenset[Precision]:
        """Fp32, int8 and int4 on the CPU; on a GPU the half precisions, and int4 with everything else in fp16."""
        return _PRECISIONS.get(device, frozenset())

    def target_precisions(self, device: str) -> frozenset[Precision]:
        """Floats only: quantised matrices are multiplied with activations that are rounded at run time."""
        return self.precisions(device) - QUANTISED

    def unavailable(self, device: str) -> str | None:
        """The remedy if ONNX Runtime is not installed; None if it is."""
        if find_spec("onnxruntime") is None:
            return "onnxruntime is not installed: pip install onnxruntime"
        if device == "cuda" and RUNTIME_DISTRIBUTIONS[0] not in _runtime_version():
            return "this onnxruntime has no CUDA provider: pip install onnxruntime-gpu in place of onnxruntime"
        return None

    def versions(self) -> Mapping[str, str]:
        """Versions of onnx, of ONNX Runtime and of the graph builder."""
        return {"onnx": version("onnx"), **_runtime_version(), "autotune-graph": GRAPH_VERSION}

    def build(self, weights: ModelWeights, settings: CompileSettings, folder: Path) -> None:
        """Write the program into an existing, empty folder."""
        with ExternalData(folder / WEIGHTS_FILE) as data:
            floats = _floats(settings.precision, settings.device)
            model, *smaller = (
                decoder_graph(weights, settings.precision, settings.capacity_tokens, data, floats, batch)
                for batch in (settings.batch, *settings.smaller_batches)
            )
        longest_burst = _longest_burst(weights.shape, settings)
        for name, graph in _graphs(model, longest_burst, settings.device):
            (folder / name).write_bytes(graph.SerializeToString())
        for batch, graph in zip(settings.smaller_batches, smaller, strict=True):
            (folder / batch_file(batch)).write_bytes(graph.SerializeToString())
        if settings.device == "cuda":
            _index(model, folder / WEIGHTS_FILE).write(folder)
        Program(
            backend=self.name,
            device=settings.device,
            precision=settings.precision,
            shape=weights.shape,
            numerics=weights.numerics,
            capacity_tokens=settings.capacity_tokens,
            token_ids=None if weights.token_ids is None else tuple(weights.token_ids.tolist()),
            longest_burst=longest_burst,
            batch=settings.batch,
            smaller_batches=settings.smaller_batches,
            drafting=Drafting.BURST if longest_burst and settings.device == "cuda" else Drafting.CALLS,
            versions=dict(self.versions()),
        ).write(folder)


def _floats(precision: Precision, device: str) -> Precision:
    """What everything but quantised matrices is stored as."""
    if precision in (Precision.FP16, Precision.BF16):
        return precision
    return Precision.FP16 if device == "cuda" else Precision.FP32


def _index(model: onnx.ModelProto, path: Path) -> WeightsIndex:
    """Where the graph's arrays lie in the weights file."""
    tensors = []
    for tensor in model.graph.initializer:
        if not tensor.external_data:
            continue  # it stands in the graph
        place = {entry.key: entry.value for entry in tensor.external_data}
        size = (int(place["offset"]), int(place["length"]))
        tensors.append(StoredTensor(tensor.name, tensor.data_type, tuple(tensor.dims), *size))
    return WeightsIndex(tuple(tensors), path.stat().st_size)


def _graphs(model: onnx.ModelProto, longest_burst: int, device: str) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Every graph of a program, by the name of its file."""
    yield MODEL_FILE, model
    for drawing in drawings_in_bursts(device):
        if drawing is not Drawing.GREEDY and device == "cpu":
            yield sampler_file(drawing), sampler_graph(model, drawing)
        for count in range(1, longest_burst + 1):
            yield burst_file(drawing, count), burst_graph(model, count, drawing)


def _longest_burst(shape: DraftShape, settings: CompileSettings) -> int:
    """Steps of the longest burst that is asked for and may pay; 0 if even a short one cannot.

    On a GPU all programs share one copy of the weights, and starting a call is what costs most: every burst may pay.
    Several sequences at once are drafted call by call.
    """
    if settings.batch > 1:
        return 0
    if settings.device != "cpu":
        return settings.longest_burst
    steps = int(MAX_BURST_BYTES / (shape.decode_parameters * settings.precision.weight_bytes))
    return min(settings.longest_burst, steps) if steps >= _FEWEST_STEPS else 0


def _runtime_version() -> Mapping[str, str]:
    for name in RUNTIME_DISTRIBUTIONS:
        try:
            return {name: version(name)}
        except PackageNotFoundError:
            continue
    return {}
