"""Compiles a decoder for ONNX Runtime: `model.onnx`, its arrays in `weights.bin`, and `program.json`.

On the CPU, floats are fp32.  On a GPU they are fp16 or bf16, the only ones that ONNX Runtime's fused attention has
there; `weights.json` then says where each array lies, since the session uploads them itself.

Precision int8 stores every matrix but the embedding as int8 with one scale per output channel, and quantises
activations at run time with one scale per *call*: logits may therefore depend, slightly, on how many tokens share a
call.  That is harmless for a draft, whose proposals are verified; a target must be fp32.  (MatMulNBits with 8 bits, the
alternative, was as exact on trained weights, within 15 % of the speed at one token, and half as fast at nine.)
"""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import onnx

from autotune.candidate import Precision
from autotune.compile.base import CompileSettings
from autotune.compile.graphs.external_data import ExternalData
from autotune.compile.graphs.llama import GRAPH_VERSION, llama_graph
from autotune.errors import BadRequest
from autotune.ort_weights import StoredTensor, WeightsIndex
from autotune.program import Program
from autotune.weights import ModelWeights

MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "weights.bin"
_PRECISIONS = {
    "cpu": frozenset({Precision.FP32, Precision.INT8}),
    "cuda": frozenset({Precision.FP16, Precision.BF16}),
}
RUNTIME_DISTRIBUTIONS = ("onnxruntime-gpu", "onnxruntime")
"""Packages that provide the module `onnxruntime`; the first one installed is the one that counts."""


class OrtBackend:
    """ONNX Runtime on the CPU and on NVIDIA's GPUs, from graphs built directly."""

    name = "onnxruntime"

    def precisions(self, device: str) -> frozenset[Precision]:
        """Fp32 and int8 on the CPU; on a GPU the half precisions."""
        return _PRECISIONS.get(device, frozenset())

    def unavailable(self, device: str) -> str | None:
        """The remedy if ONNX Runtime is not installed; None if it is."""
        if find_spec("onnxruntime") is None:
            return "onnxruntime is not installed: pip install onnxruntime"
        if device == "cuda" and RUNTIME_DISTRIBUTIONS[0] not in _runtime_version():
            return "this onnxruntime has no CUDA provider: pip install onnxruntime-gpu in place of onnxruntime"
        return None

    def versions(self) -> Mapping[str, str]:
        """Versions of onnx, of ONNX Runtime and of the graph builder."""
        return {"onnx": version("onnx"), **_runtime_version(), "autotune-llama-graph": GRAPH_VERSION}

    def build(self, weights: ModelWeights, settings: CompileSettings, folder: Path) -> None:
        """Write the program into an existing, empty folder."""
        if weights.numerics.family != "llama":
            raise BadRequest(f"backend {self.name} builds llama models, not {weights.numerics.family!r}")
        with ExternalData(folder / WEIGHTS_FILE) as data:
            model = llama_graph(
                weights, settings.precision, settings.capacity_tokens, data, _floats(settings.precision)
            )
        (folder / MODEL_FILE).write_bytes(model.SerializeToString())
        if settings.device == "cuda":
            _index(model, folder / WEIGHTS_FILE).write(folder)
        Program(
            backend=self.name,
            device=settings.device,
            precision=settings.precision,
            shape=weights.shape,
            numerics=weights.numerics,
            capacity_tokens=settings.capacity_tokens,
            versions=dict(self.versions()),
        ).write(folder)


def _floats(precision: Precision) -> Precision:
    """What is stored in floats at that precision, is stored in these."""
    return precision if precision in (Precision.FP16, Precision.BF16) else Precision.FP32


def _index(model: onnx.ModelProto, path: Path) -> WeightsIndex:
    """Where the graph's arrays lie in the weights file."""
    tensors = []
    for tensor in model.graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        size = (int(place["offset"]), int(place["length"]))
        tensors.append(StoredTensor(tensor.name, tensor.data_type, tuple(tensor.dims), *size))
    return WeightsIndex(tuple(tensors), path.stat().st_size)


def _runtime_version() -> Mapping[str, str]:
    for name in RUNTIME_DISTRIBUTIONS:
        try:
            return {name: version(name)}
        except PackageNotFoundError:
            continue
    return {}
