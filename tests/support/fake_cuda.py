"""A stand-in for NVIDIA's driver library: it has a GPU, or reports an error, and keeps track of device memory."""

import ctypes
from collections.abc import Sequence
from typing import Any

NO_DEVICE = 100
OUT_OF_MEMORY = 2


class FakeCuda:
    """As `ctypes.CDLL("libcuda.so.1")`; `failing` maps names of functions to the error codes they return."""

    def __init__(self, gpus: Sequence[str] = ("Example H1",), failing: dict[str, int] | None = None) -> None:
        self._gpus = gpus
        self._failing = failing or {}
        self.calls: list[str] = []
        self.allocated: dict[int, int] = {}
        self.copied: list[tuple[int, int, int]] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)
        action = getattr(self, f"_{name}", lambda *arguments: None)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name in self._failing:
                return self._failing[name]
            action(*arguments)
            return 0

        return call

    def _cuGetErrorString(self, code: ctypes.c_int, text: Any) -> None:  # noqa: N802
        text._obj.value = f"example error {code.value}".encode()

    def _cuDeviceGetCount(self, count: Any) -> None:  # noqa: N802
        count._obj.value = len(self._gpus)

    def _cuDeviceGet(self, device: Any, index: ctypes.c_int) -> None:  # noqa: N802
        device._obj.value = index.value

    def _cuDeviceGetName(self, name: Any, size: ctypes.c_int, device: ctypes.c_int) -> None:  # noqa: N802
        name.value = self._gpus[device.value].encode()[: size.value - 1]

    def _cuDeviceGetAttribute(self, value: Any, number: ctypes.c_int, device: ctypes.c_int) -> None:  # noqa: N802
        value._obj.value = {16: 132, 75: 9, 76: 0}[number.value]

    def _cuDeviceTotalMem_v2(self, size: Any, device: ctypes.c_int) -> None:  # noqa: N802
        size._obj.value = 80 << 30

    def _cuDriverGetVersion(self, version: Any) -> None:  # noqa: N802
        version._obj.value = 13020

    def _cuMemAlloc_v2(self, block: Any, size: ctypes.c_size_t) -> None:  # noqa: N802
        block._obj.value = 0x7F00_0000_0000 + (len(self.allocated) << 32)  # beyond 32 bits, as real addresses are
        self.allocated[block._obj.value] = size.value

    def _cuMemFree_v2(self, block: ctypes.c_uint64) -> None:  # noqa: N802
        del self.allocated[block.value]

    def _cuMemcpyDtoD_v2(  # noqa: N802
        self, destination: ctypes.c_uint64, source: ctypes.c_uint64, size: ctypes.c_size_t
    ) -> None:
        self.copied.append((destination.value, source.value, size.value))
