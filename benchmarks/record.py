"""What every benchmark writes: a JSON document with the figures, their spread, the machine and the command."""

import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from autotune.devices import find_device


def spread(samples: Sequence[float]) -> dict[str, float | int]:
    """Median, quartiles and extremes of at least two samples."""
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return {
        "median": middle,
        "first_quartile": low,
        "third_quartile": high,
        "min": min(samples),
        "max": max(samples),
        "samples": len(samples),
    }


def machine() -> dict[str, Any]:
    """Facts without which a timing means nothing; call it before measuring, for the load it was measured under."""
    device = find_device("cpu")
    return {
        "processor": device.name,
        "cores": device.cores,
        "features": list(device.features),
        "memory_bytes": device.memory_bytes,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average_before": os.getloadavg(),
    }


def write_record(
    benchmark: str,
    facts: Mapping[str, Any],
    results: Mapping[str, Any],
    packages: Sequence[str] = (),
    out: Path | None = None,
) -> None:
    """Write the document to `out`, or to standard output.  facts: what `machine()` returned before measuring."""
    document = {
        "benchmark": benchmark,
        "command": shlex.join(["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {**facts, "load_average_after": os.getloadavg()},
        "versions": {name: version(name) for name in packages},
        **results,
    }
    text = json.dumps(document, indent=2) + "\n"
    if out is None:
        print(text, end="")
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)
