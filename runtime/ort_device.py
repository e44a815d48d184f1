"""Graphs of ONNX Runtime with all their memory on a GPU: opening, uploading, binding, and capturing them.

A call whose inputs and outputs never move can be captured as a CUDA graph: the provider runs it twice as usual, then
records its kernels, and from then on replays them in one go, without the time to start each.  ONNX Runtime does all of
that inside the first call with a new `gpu_graph_id`.  What a captured call reads on the *host* is read once, at the
capture; therefore attention is given the capacity of the cache as its `total_sequence_length`, and takes the true
length from `seqlens_k`, which is in device memory.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from autotune.errors import ArtifactError
from autotune.ort_weights import WeightsIndex

NOT_CAPTURED = -1
"""Graph id of calls that are run as they are."""
REMEDY = "pip install 'onnxruntime-gpu[cuda,cudnn]'"

LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


@dataclass(frozen=True)
class Place:
    """Where graphs run and their memory is; another than `GPU` serves to test without one."""

    provider: str
    memory: str
    options: tuple[tuple[str, str], ...] = ()

    def zeros(self, shape: Sequence[int], data_type: int, item_bytes: int) -> onnxruntime.OrtValue:
        """A tensor of zeros; data_type: as ONNX numbers its types."""
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), data_type, self.memory, 0)
        value.update_inplace(np.zeros(shape, f"u{item_bytes}"))  # only the bits count
        return value

    def holding(self, array: NDArray[Any]) -> onnxruntime.OrtValue:
        """A tensor with a copy of the array; it may be updated in place and never moves."""
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(array.shape), array.dtype, self.memory, 0)
        value.update_inplace(array)
        return value


GPU = Place(
    "CUDAExecutionProvider",
    "cuda",
    (("device_id", "0"), ("enable_cuda_graph", "1"), ("arena_extend_strategy", "kSameAsRequested")),
)
"""The first GPU that is visible."""


@cache
def load_provider() -> None:
    """Load CUDA's libraries and ONNX Runtime's provider; ArtifactError with the remedy if one is missing."""
    if GPU.provider not in onnxruntime.get_available_providers():
        raise ArtifactError(f"this onnxruntime has no CUDA provider: {REMEDY} in place of onnxruntime")
    with redirect_stdout(io.StringIO()) as said:  # it prints what it cannot find
        onnxruntime.preload_dlls()
    onnxruntime.set_default_logger_severity(4)  # what goes wrong is said by the exception
    try:
        onnxruntime.OrtValue.ortvalue_from_shape_and_type([1], np.float32, GPU.memory, 0)
    except (RuntimeError, *LOAD_ERRORS) as error:
        missing = [line.partition(":")[0] for line in said.getvalue().splitlines() if line.startswith("Failed to load")]
        reason = ", ".join(missing) or str(error).strip().splitlines()[0]
        raise ArtifactError(f"ONNX Runtime cannot load its CUDA provider ({reason}): {REMEDY}") from None


def upload_weights(path: Path, index: WeightsIndex, place: Place) -> Mapping[str, onnxruntime.OrtValue]:
    """The arrays of a weights file by name, in the place's memory; ArtifactError if the file has another size."""
    if path.stat().st_size != index.file_bytes:
        raise ArtifactError(f"{path} is corrupt: it has {path.stat().st_size} bytes, not {index.file_bytes}")
    content = np.memmap(path, np.uint8, "r")
    uploaded = {}
    for tensor in index.tensors:
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(tensor.shape), tensor.data_type, place.memory, 0)
        stored = content[tensor.offset_bytes : tensor.offset_bytes + tensor.size_bytes]
        if value.tensor_size_in_bytes() != len(stored):
            raise ArtifactError(f"{path} is corrupt: {tensor.name} has {len(stored)} bytes")
        count = int(np.prod(tensor.shape, dtype=np.int64))
        value.update_inplace(stored.view(f"u{tensor.size_bytes // max(count, 1)}").reshape(tensor.shape))
        # Sessions share only memory that ONNX Runtime does not own; what comes back from DLPack is not its own.
        uploaded[tensor.name] = onnxruntime.OrtValue.from_dlpack(value)
    return uploaded


def open_graph(path: Path, place: Place, weights: Mapping[str, onnxruntime.OrtValue]) -> onnxruntime.InferenceSession:
    """The ONNX Runtime session of a graph; ArtifactError if it cannot be loaded.

    weights: what `upload_weights` returned; the session reads them where they are, so they must outlive it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_mem_pattern = False  # patterns are learnt by runs, and allocate when a graph is to be captured
    options.log_severity_level = 4
    for name, value in weights.items():
        options.add_initializer(name, value)
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=[(place.provider, dict(place.options))], enable_fallback=0
        )
    except LOAD_ERRORS as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(f"{path.parent} cannot be loaded by ONNX Runtime: {reason}") from error
    if place.provider not in session.get_providers():
        raise ArtifactError(f"ONNX Runtime cannot load its CUDA provider: {REMEDY}")
    return session


def bind(
    session: onnxruntime.InferenceSession,
    inputs: Mapping[str, onnxruntime.OrtValue],
    outputs: Mapping[str, onnxruntime.OrtValue],
    graph_id: int = NOT_CAPTURED,
) -> Callable[[], object]:
    """A call that runs the session from and into these tensors, and returns when the outputs are complete.

    graph_id: of the CUDA graph to capture and replay; each call that is captured has its own in the session.
    """
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    for name, value in outputs.items():
        binding.bind_ortvalue_output(name, value)
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return partial(session.run_with_iobinding, binding, options)
