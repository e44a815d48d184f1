"""What this machine and this environment offer, and what is wrong with them; the command line prints it."""

import json
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from autotune.cache import cache_bytes, cache_root
from autotune.compile.base import BACKENDS, load_backend
from autotune.devices import core_word, find_device
from autotune.errors import BadRequest

DISTRIBUTION = "draft-autotune"

_ORT_FLAVOURS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-rocm")


@dataclass(frozen=True)
class PackageFinding:
    """A package this one requires: what is installed, and whether that will do."""

    name: str
    required: str
    installed: str | None
    """Its version; None if it is missing."""
    fits: bool


@dataclass(frozen=True)
class BackendFinding:
    """A compiler backend, and why it cannot be used (None: it can)."""

    name: str
    reason: str | None


@dataclass(frozen=True)
class DeviceFinding:
    """A device, and why nothing can be tuned on it (None: it can)."""

    kind: str
    name: str
    cores: int | None
    memory_bytes: int | None
    features: tuple[str, ...]
    reason: str | None


@dataclass(frozen=True)
class Diagnosis:
    """Everything `autotune doctor` shows."""

    version: str | None
    """Of this package; None in a checkout that is not installed."""
    python: str
    platform: str
    packages: tuple[PackageFinding, ...]
    backends: tuple[BackendFinding, ...]
    devices: tuple[DeviceFinding, ...]
    cache: Path
    cache_bytes: int
    free_bytes: int
    """Free space on the cache's disk."""
    problems: tuple[str, ...]
    """What is wrong, each with its remedy; empty if all is well."""


def examine() -> Diagnosis:
    """The state of this environment; loads no model, and a compiler only to ask whether it is usable."""
    packages = tuple(_packages())
    backends = tuple(_backend(name) for name in BACKENDS)
    root = cache_root()
    return Diagnosis(
        version=_installed(DISTRIBUTION),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=platform.platform(),
        packages=packages,
        backends=backends,
        devices=tuple(_devices()),
        cache=root,
        cache_bytes=cache_bytes(),
        free_bytes=_free_bytes(root),
        problems=tuple(_problems(packages, backends)),
    )


def _packages() -> Iterator[PackageFinding]:
    """The base requirements in this package's own metadata; none if it is not installed."""
    try:
        requirements = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = _installed(requirement.name)
        fits = installed is not None and requirement.specifier.contains(installed, prereleases=True)
        yield PackageFinding(requirement.name, str(requirement.specifier), installed, fits)


def _backend(name: str) -> BackendFinding:
    try:
        load_backend(name)
    except BadRequest as error:
        return BackendFinding(name, str(error))
    return BackendFinding(name, None)


def _devices() -> Iterator[DeviceFinding]:
    cpu = find_device("cpu")
    yield DeviceFinding("cpu", cpu.name, cpu.cores, cpu.memory_bytes, cpu.features, None)
    try:
        gpu = find_device("cuda")
    except BadRequest as error:
        yield DeviceFinding("cuda", "none", None, None, (), str(error))
    else:
        yield DeviceFinding("cuda", gpu.name, gpu.cores, gpu.memory_bytes, gpu.features, _no_cuda())


def _no_cuda() -> str | None:
    """Why a GPU that is there cannot be tuned for; None if it can."""
    try:
        from onnxruntime import get_available_providers
    except ImportError as error:
        return f"onnxruntime cannot be imported ({error})"
    if "CUDAExecutionProvider" not in get_available_providers():
        return "this onnxruntime has no CUDA provider: pip install onnxruntime-gpu in place of onnxruntime"
    return None


def _problems(packages: tuple[PackageFinding, ...], backends: tuple[BackendFinding, ...]) -> Iterator[str]:
    if not packages:
        yield f"{DISTRIBUTION} is not installed, so its requirements are unknown: pip install -e ."
    for package in packages:
        if not package.fits:
            found = f"{package.installed} is installed" if package.installed else "it is not installed"
            yield (
                f"{package.name}{package.required} is required, but {found}: "
                f"pip install '{package.name}{package.required}'"
            )
    flavours = [name for name in _ORT_FLAVOURS if _installed(name)]
    if len(flavours) > 1:
        yield (
            f"{' and '.join(flavours)} are both installed and overwrite each other's files: "
            f"pip uninstall {' '.join(flavours)}, then install one of them"
        )
    for backend in backends:
        if backend.reason:
            yield backend.reason


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _free_bytes(folder: Path) -> int:
    """Free bytes of the disk a folder is on, or will be on once it is made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def describe(diagnosis: Diagnosis, *, as_json: bool = False) -> str:
    """A diagnosis as text to read, or as JSON."""
    if as_json:
        return json.dumps(asdict(diagnosis), indent=2, default=str)
    lines = [f"{DISTRIBUTION} {diagnosis.version or '(not installed)'} on {diagnosis.python}, {diagnosis.platform}"]
    lines += ["", "Devices"]
    lines += [f"  {_mark(device.reason)} {_device_line(device)}" for device in diagnosis.devices]
    lines += ["", "Backends"]
    lines += [f"  {_mark(each.reason)} {each.name}{_because(each.reason)}" for each in diagnosis.backends]
    lines += ["", "Packages"]
    for package in diagnosis.packages:
        mark = "+" if package.fits else "-"
        lines.append(f"  {mark} {package.name} {package.installed or 'missing'} ({package.required or 'any version'})")
    cached_mib, free_gib = diagnosis.cache_bytes / 2**20, diagnosis.free_bytes / 2**30
    lines += ["", f"Cache: {diagnosis.cache}, {cached_mib:,.1f} MiB used, {free_gib:,.1f} GiB free on its disk", ""]
    lines += [f"Problem: {problem}" for problem in diagnosis.problems] or ["No problems."]
    return "\n".join(lines)


def _device_line(device: DeviceFinding) -> str:
    line = f"{device.kind}: {device.name}"
    if device.cores is not None and device.memory_bytes is not None:
        line += f", {device.cores} {core_word(device.kind)}, {device.memory_bytes / 2**30:.1f} GiB"
    return ", ".join([line, *device.features]) + _because(device.reason)


def _mark(reason: str | None) -> str:
    return "+" if reason is None else "-"


def _because(reason: str | None) -> str:
    return "" if reason is None else f" ({reason})"
