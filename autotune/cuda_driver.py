"""NVIDIA's driver through ctypes: which GPU is there, and memory on it to read.  Needs no toolkit and no torch.

All of it happens in the device's primary context, the one that ONNX Runtime, TVM and torch share.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

LIBRARY = "libcuda.so.1"

_MULTIPROCESSORS, _CAPABILITY_MAJOR, _CAPABILITY_MINOR = 16, 75, 76
"""Attributes of a device, as `CUdevice_attribute` numbers them."""
_NO_DEVICE = 100
_NAME_BYTES = 256


class CudaUnavailable(Exception):
    """There is no GPU that can be used; the message says why."""


@dataclass(frozen=True)
class Gpu:
    """What the driver says of a GPU."""

    name: str
    capability: tuple[int, int]
    """Compute capability: (9, 0) for sm_90."""
    multiprocessors: int
    memory_bytes: int
    cuda_version: tuple[int, int]
    """The newest CUDA the driver supports."""


class CudaDriver:
    """The driver library, initialised.  Raises CudaUnavailable if it is missing, does not start, or finds no GPU."""

    def __init__(self, library: Any = None) -> None:
        self._library = _load() if library is None else library
        self._call("cuInit", ctypes.c_uint(0))
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if count.value < 1:
            raise CudaUnavailable("the NVIDIA driver finds no GPU")

    def gpu(self, index: int = 0) -> Gpu:
        """The GPU of that index among those that CUDA_VISIBLE_DEVICES leaves visible."""
        device = self._device(index)
        name = ctypes.create_string_buffer(_NAME_BYTES)
        self._call("cuDeviceGetName", name, ctypes.c_int(_NAME_BYTES), device)
        memory = ctypes.c_size_t()
        self._call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        return Gpu(
            name=name.value.decode(errors="replace"),
            capability=(self._attribute(_CAPABILITY_MAJOR, device), self._attribute(_CAPABILITY_MINOR, device)),
            multiprocessors=self._attribute(_MULTIPROCESSORS, device),
            memory_bytes=memory.value,
            cuda_version=(version.value // 1000, version.value % 1000 // 10),
        )

    def copier(self, size_bytes: int, index: int = 0) -> "DeviceCopier":
        """Two blocks of device memory of that size, and the copy from one to the other."""
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device(index))
        self._call("cuCtxSetCurrent", context)
        return DeviceCopier(self, size_bytes)

    def _device(self, index: int) -> ctypes.c_int:
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(index))
        return device

    def _attribute(self, number: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(number), device)
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        """Call the driver; CudaUnavailable with its own words if it reports an error."""
        code = int(getattr(self._library, function)(*arguments))
        if code == _NO_DEVICE:
            raise CudaUnavailable("the NVIDIA driver finds no GPU")
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
            reason = (text.value or b"unknown error").decode(errors="replace")
            raise CudaUnavailable(f"{function} of the NVIDIA driver failed: {reason} (error {code})")


class DeviceCopier:
    """Reads a block of device memory and writes it to another; made by `CudaDriver.copier`."""

    def __init__(self, driver: CudaDriver, size_bytes: int) -> None:
        self._call = driver._call
        self._size = ctypes.c_size_t(size_bytes)
        self._blocks = [ctypes.c_uint64(), ctypes.c_uint64()]
        for block in self._blocks:
            self._call("cuMemAlloc_v2", ctypes.byref(block), self._size)
            self._call("cuMemsetD8_v2", block, ctypes.c_ubyte(0), self._size)
        self._call("cuCtxSynchronize")

    def copy(self) -> None:
        """One copy; returns when it is done.  The memory moves twice its size: once read, once written."""
        source, destination = self._blocks
        self._call("cuMemcpyDtoD_v2", destination, source, self._size)
        self._call("cuCtxSynchronize")

    def close(self) -> None:
        """Free both blocks; may be called again."""
        while self._blocks:
            self._call("cuMemFree_v2", self._blocks.pop())


def _load() -> Any:
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError:
        raise CudaUnavailable(f"this machine has no NVIDIA driver ({LIBRARY} cannot be loaded)") from None
