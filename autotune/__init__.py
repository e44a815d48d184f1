"""Searches draft models for speculative decoding: compiles, measures and ships the one worth running.

    import autotune

    result = autotune.tune(autotune.TuneConfig(target="demo", out="run"))
    pair = autotune.Pair.open("run/artifact", "demo")
    print(pair.generate("def main():", max_new_tokens=64).text)

Everything is loaded when it is first used: importing this package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.config import TuneConfig
    from autotune.pair import Pair
    from autotune.run import TuneResult, tune

__all__ = ["Pair", "TuneConfig", "TuneResult", "tune"]

_HOMES = {
    "Pair": "autotune.pair",
    "TuneConfig": "autotune.config",
    "TuneResult": "autotune.run",
    "tune": "autotune.run",
    "acceptance": "autotune.acceptance",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'autotune' has no attribute {name!r}")
    module = import_module(_HOMES[name])
    return module if name == "acceptance" else getattr(module, name)
