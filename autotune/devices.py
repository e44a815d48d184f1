"""Which device a measurement belongs to, and the lock that keeps measurements apart."""

import platform
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock

from autotune.cache import cache_root
from autotune.errors import BadRequest

DEVICES = ("cpu",)


@dataclass(frozen=True)
class Device:
    """A device that programs are compiled for and measured on."""

    kind: str
    name: str
    cores: int
    memory_bytes: int
    features: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """One line that is equal only for interchangeable devices."""
        return ":".join([self.kind, self.name, f"{self.cores} cores", *self.features])


def find_device(kind: str) -> Device:
    """The device of that kind on this machine; BadRequest if there is none."""
    if kind != "cpu":
        raise BadRequest(f"unknown device {kind!r}; this version knows: {', '.join(DEVICES)}")
    name, flags = _processor()
    features = tuple(flag for flag in ("avx2", "avx512f", "avx512_vnni", "amx_int8", "asimd", "sve") if flag in flags)
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count()
    return Device("cpu", name, cores or 1, psutil.virtual_memory().total, features)


def device_lock(kind: str) -> FileLock:
    """The lock to hold while measuring on, or building beside, a device (one at a time per machine user)."""
    folder = cache_root() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{kind}.lock")


def _processor() -> tuple[str, frozenset[str]]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine(), frozenset()
    fields: dict[str, str] = {}
    for line in info.read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.machine()
    return name, frozenset((fields.get("flags") or fields.get("Features") or "").split())
