"""Half-precision graphs: what they store, and that a bfloat16 graph, which no CPU runs, computes the right thing."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from autotune.candidate import Precision
from autotune.compile.base import CompileSettings, build_program
from autotune.compile.graphs.floats import FLOAT_TYPES
from autotune.compile.ort_backend import OrtBackend
from autotune.ort_weights import WeightsIndex
from autotune.quantization import dequantised, from_bfloat16_bits
from tests.support.compiled import CAPACITY, LENGTH
from tests.support.conformance import SHAPES
from tests.support.models import reference_logits, tiny_weights

HALVES = (Precision.FP16, Precision.BF16)


@pytest.mark.parametrize("precision", HALVES)
def test_everything_but_the_results_is_stored_in_halves(precision: Precision, tmp_path: Path) -> None:
    shape = SHAPES["grouped"]
    build_program("onnxruntime", tiny_weights(shape), CompileSettings(precision, CAPACITY, "cuda"), tmp_path)
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    half = FLOAT_TYPES[precision]
    assert {tensor.data_type for tensor in graph.initializer} == {half}
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.input, *graph.output]}
    assert types["logits"] == TensorProto.FLOAT
    assert {kind for name, kind in types.items() if name.startswith(("past.", "present."))} == {half}
    size = (tmp_path / "weights.bin").stat().st_size
    assert size < shape.weight_bytes(precision) + len(graph.initializer) * 4096 + CAPACITY * shape.head_dim * 2


@pytest.mark.parametrize("precision", HALVES)
def test_the_index_says_where_every_array_lies(precision: Precision, tmp_path: Path) -> None:
    weights = tiny_weights(SHAPES["grouped"])
    build_program("onnxruntime", weights, CompileSettings(precision, CAPACITY, "cuda"), tmp_path)
    index = WeightsIndex.read(tmp_path)
    content = (tmp_path / "weights.bin").read_bytes()
    assert index.file_bytes == len(content)
    (embed,) = (tensor for tensor in index.tensors if tensor.name == "embed")
    stored = np.frombuffer(content, "u2", embed.size_bytes // 2, embed.offset_bytes).reshape(embed.shape)
    values = stored.view(np.float16) if precision is Precision.FP16 else from_bfloat16_bits(stored)
    np.testing.assert_array_equal(values, dequantised(weights, precision).arrays["embed"])


def widened(folder: Path) -> onnxruntime.InferenceSession:
    """The bfloat16 graph of a program with all its arrays and floats turned into float32, on the CPU."""
    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        bits = np.frombuffer(tensor.raw_data, np.uint16).reshape(tensor.dims)
        tensor.CopyFrom(numpy_helper.from_array(from_bfloat16_bits(bits), tensor.name))
    for value in [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bfloat16_graph_computes_with_the_weights_it_stores(shape: str, tmp_path: Path) -> None:
    weights = tiny_weights(SHAPES[shape])
    build_program("onnxruntime", weights, CompileSettings(Precision.BF16, CAPACITY, "cuda"), tmp_path / "program")
    session = widened(tmp_path / "program")
    tokens = np.random.default_rng(7).integers(0, SHAPES[shape].vocab, LENGTH)
    caches = {
        value.name: np.zeros(value.shape, np.float32)
        for value in session.get_inputs()
        if value.name.startswith("past.")
    }
    places = {"seqlens_k": np.array([LENGTH - 1], np.int32), "total_sequence_length": np.array(CAPACITY, np.int32)}
    (logits,) = session.run(["logits"], {"tokens": tokens[None], **places, **caches})
    expected = reference_logits(dequantised(weights, Precision.BF16), tokens.tolist(), tmp_path / "checkpoint")
    # The rotary tables are rounded to bfloat16 as well.
    assert np.abs(logits[0] - expected).max() < 0.02 * np.abs(expected).max()


def test_a_gpu_needs_the_distribution_with_its_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"onnxruntime": "1.31.1"}
    monkeypatch.setattr("autotune.compile.ort_backend._runtime_version", lambda: versions)
    assert "pip install onnxruntime-gpu" in (OrtBackend().unavailable("cuda") or "")
    assert OrtBackend().unavailable("cpu") is None
    versions["onnxruntime-gpu"] = "1.31.1"
    assert OrtBackend().unavailable("cuda") is None
