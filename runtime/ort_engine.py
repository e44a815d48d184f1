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

LOAD_ERRORS = (
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
    with huge_pages():
        return load(folder / name, session_options(threads), "CPUExecutionProvider")


class Graphs:
    """The graphs of a program folder that were opened so far, each once, whoever asks for it."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._folder = folder
        self._threads = threads
        self._opened: dict[str, onnxruntime.InferenceSession] = {}

    def open(self, name: str, threads: int | None = None) -> onnxruntime.InferenceSession:
        """The session of a graph, with as many threads as the folder is opened with unless told otherwise."""
        if name not in self._opened:
            self._opened[name] = open_graph(self._folder, name, threads or self._threads)
        return self._opened[name]


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Options that all sessions share."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Threads that spin while they wait steal the cores from whatever else runs, the target included.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    return options


def load(
    path: Path, options: onnxruntime.SessionOptions, provider: str, settings: Mapping[str, str] | None = None
) -> onnxruntime.InferenceSession:
    """The session of a graph on a provider with these settings; ArtifactError if the graph cannot be loaded."""
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=[(provider, dict(settings or {}))], enable_fallback=0
        )
    except LOAD_ERRORS as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(f"{path.parent} cannot be loaded by ONNX Runtime: {reason}") from error


def bind(session: onnxruntime.InferenceSession, inputs: Arrays, outputs: Arrays) -> Callable[[], object]:
    """A call that runs the session from and into these arrays, which must be kept alive."""
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    return runner(session, binding)


def runner(
    session: onnxruntime.InferenceSession,
    binding: onnxruntime.IOBinding,
    options: onnxruntime.RunOptions | None = None,
) -> Callable[[], object]:
    """A call that runs the binding.

    The native methods under the public ones save about 10 µs a step; where a version lacks them, the public ones do.
    """
    native_session, native_binding = getattr(session, "_sess", None), getattr(binding, "_iobinding", None)
    if native_session is None or native_binding is None:
        return partial(session.run_with_iobinding, binding, *([options] if options else []))
    return partial(native_session.run_with_iobinding, native_binding, options)
