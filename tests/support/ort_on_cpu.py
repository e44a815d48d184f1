"""The GPU session of ONNX Runtime with its graphs and memory on the CPU: everything but the GPU itself, tested here."""

from autotune.runtime.ort_cuda_session import OrtCudaSession
from autotune.runtime.ort_device import Place


class OrtOnCpu(OrtCudaSession):
    """As `OrtCudaSession`; fp16 only, for which the CPU provider has an attention too."""

    place = Place("CPUExecutionProvider", "cpu")
