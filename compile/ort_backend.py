"""Compiles a decoder for ONNX Runtime: `model.onnx`, its arrays in `weights.bin`, and `program.json`.

Precision int8 stores every matrix but the embedding as int8 with one scale per output channel, and quantises
activations at run time with one scale per *call*: logits may therefore depend, slightly, on how many tokens share a
call.  That is harmless for a draft, whose proposals are verified; a target must be fp32.  (MatMulNBits with 8 bits, the
alternative, was as exact on trained weights, within 15 % of the speed at one token, and half as fast at nine.)
"""

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import onnx

from autotune.candidate import DraftShape, Precision
from autotune.compile.base import CompileSettings
from autotune.compile.graphs.burst import burst_graph, sampler_graph
from autotune.compile.graphs.external_data import ExternalData
from autotune.compile.graphs.llama import GRAPH_VERSION, llama_graph
from autotune.errors import BadRequest
from autotune.ort_layout import MODEL_FILE, WEIGHTS_FILE, Drawing, burst_file, sampler_file
from autotune.program import Program
from autotune.weights import ModelWeights

RUNTIME_DISTRIBUTIONS = ("onnxruntime-gpu", "onnxruntime")
"""Packages that provide the module `onnxruntime`; the first one installed is the one that counts."""

MAX_BURST_BYTES = 32 << 20
"""ONNX Runtime packs a copy of the weights for every step of a burst, which together must fit a processor's last
cache.  Beyond that a burst has nothing to win: at 5 M and 15 M parameters it was level with calls within 3 %, at many
times their memory.  (Without packed copies it was a fifth slower there, and no faster at 0.3 M or 1 M.)"""
_FEWEST_STEPS = 2


class OrtBackend:
    """ONNX Runtime on the CPU, from graphs built directly."""

    name = "onnxruntime"

    def precisions(self, device: str) -> frozenset[Precision]:
        """Fp32, int8 and int4 on the CPU."""
        return frozenset({Precision.FP32, Precision.INT8, Precision.INT4} if device == "cpu" else ())

    def unavailable(self, device: str) -> str | None:
        """The remedy if ONNX Runtime is not installed; None if it is."""
        if find_spec("onnxruntime") is None:
            return "onnxruntime is not installed: pip install onnxruntime"
        return None

    def versions(self) -> Mapping[str, str]:
        """Versions of onnx, of ONNX Runtime and of the graph builder."""
        return {"onnx": version("onnx"), **_runtime_version(), "autotune-llama-graph": GRAPH_VERSION}

    def build(self, weights: ModelWeights, settings: CompileSettings, folder: Path) -> None:
        """Write the program into an existing, empty folder."""
        if weights.numerics.family != "llama":
            raise BadRequest(f"backend {self.name} builds llama models, not {weights.numerics.family!r}")
        with ExternalData(folder / WEIGHTS_FILE) as data:
            model = llama_graph(weights, settings.precision, settings.capacity_tokens, data)
        longest_burst = min(settings.longest_burst, _longest_worthwhile(weights.shape, settings.precision))
        for name, graph in _graphs(model, longest_burst):
            (folder / name).write_bytes(graph.SerializeToString())
        Program(
            backend=self.name,
            device=settings.device,
            precision=settings.precision,
            shape=weights.shape,
            numerics=weights.numerics,
            capacity_tokens=settings.capacity_tokens,
            token_ids=None if weights.token_ids is None else tuple(weights.token_ids.tolist()),
            longest_burst=longest_burst,
            versions=dict(self.versions()),
        ).write(folder)


def _graphs(model: onnx.ModelProto, longest_burst: int) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Every graph of a program, by the name of its file."""
    yield MODEL_FILE, model
    for drawing in Drawing:
        if drawing is not Drawing.GREEDY:
            yield sampler_file(drawing), sampler_graph(model, drawing)
        for count in range(1, longest_burst + 1):
            yield burst_file(drawing, count), burst_graph(model, count, drawing)


def _longest_worthwhile(shape: DraftShape, precision: Precision) -> int:
    """Steps of the longest burst that may pay; 0 if even a short one cannot."""
    steps = int(MAX_BURST_BYTES / (shape.decode_parameters * precision.weight_bytes))
    return steps if steps >= _FEWEST_STEPS else 0


def _runtime_version() -> Mapping[str, str]:
    for name in RUNTIME_DISTRIBUTIONS:
        try:
            return {name: version(name)}
        except PackageNotFoundError:
            continue
    return {}
