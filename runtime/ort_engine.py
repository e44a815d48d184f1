"""Opens graphs with ONNX Runtime and binds them to memory."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from autotune.errors import ArtifactError
from autotune.runtime.huge_pages import huge_pages

Arrays = Mapping[str, NDArray[Any]]

_LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


def open_graph(folder: Path, name: str, threads: int) -> onnxruntime.InferenceSession:
    """The ONNX Runtime session of a graph in a program folder; ArtifactError if it cannot be loaded."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Threads that spin while they wait steal the cores from whatever else runs, the target included.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    try:
        with huge_pages():
            return onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
    except _LOAD_ERRORS as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(f"{folder} cannot be loaded by ONNX Runtime: {reason}") from error


def bind(session: onnxruntime.InferenceSession, inputs: Arrays, outputs: Arrays) -> Callable[[], object]:
    """A call that runs the session from and into these arrays, which must be kept alive."""
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    # The native methods under the public ones save about 10 µs a step; where a version lacks them, the public ones do.
    native_session, native_binding = getattr(session, "_sess", None), getattr(binding, "_iobinding", None)
    if native_session is None or native_binding is None:
        return partial(session.run_with_iobinding, binding)
    return partial(native_session.run_with_iobinding, native_binding, None)
