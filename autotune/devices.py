"""Which device a measurement belongs to, and the lock that keeps measurements apart."""

import platform
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock

from autotune.cache import cache_root
from autotune.cuda_driver import CudaDriver, CudaUnavailable
from autotune.errors import ArtifactError, BadRequest, unknown_name

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Device:
    """A device that programs are compiled for and measured on."""

    kind: str
    name: str
    cores: int
    """Cores this process may use; of a GPU, its multiprocessors."""
    memory_bytes: int
    features: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """One line that is equal only for interchangeable devices."""
        return ":".join([self.kind, self.name, f"{self.cores} {core_word(self.kind)}", *self.features])


def core_word(kind: str) -> str:
    """What `Device.cores` counts."""
    return "cores" if kind == "cpu" else "multiprocessors"


def find_device(kind: str) -> Device:
    """The device of that kind on this machine; BadRequest if there is none."""
    if kind not in DEVICES:
        raise unknown_name("device", kind, DEVICES)
    if kind == "cuda":
        return _find_gpu()
    name, flags = _processor()
    features = tuple(flag for flag in ("avx2", "avx512f", "avx512_vnni", "amx_int8", "asimd", "sve") if flag in flags)
    return Device("cpu", name, cpu_cores(), psutil.virtual_memory().total, features)


def processor_flags() -> frozenset[str]:
    """What the machine's processor can do, by Linux's names; empty elsewhere."""
    return _processor()[1]


def cpu_cores() -> int:
    """The cores that this process may use."""
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count()
    return cores or 1


def check_compiled_for(kind: str, folder: Path) -> None:
    """ArtifactError, naming the folder, if what it holds was compiled for a kind of device that is not here."""
    try:
        find_device(kind)
    except BadRequest as error:
        reason = str(error).removeprefix(f"--device {kind}: ").partition(";")[0]
        raise ArtifactError(
            f"{folder} was compiled for {kind}, which cannot be used here: {reason}; "
            "open it on a machine that has one, or make another with --device cpu"
        ) from None


def device_lock(kind: str) -> FileLock:
    """The lock to hold while measuring on, or building beside, a device (one at a time per machine user)."""
    folder = cache_root() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{kind}.lock")


def _find_gpu() -> Device:
    """The first GPU that is visible; a small draft's speed depends on the host that launches its kernels too."""
    try:
        gpu = CudaDriver().gpu()
    except CudaUnavailable as error:
        raise BadRequest(f"--device cuda: {error}; use --device cpu") from None
    capability, version = "".join(map(str, gpu.capability)), ".".join(map(str, gpu.cuda_version))
    features = (f"sm_{capability}", f"CUDA {version}", f"host {_processor()[0]}")
    return Device("cuda", gpu.name, gpu.multiprocessors, gpu.memory_bytes, features)


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
