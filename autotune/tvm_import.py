"""Imports TVM's binding layer without the torch that it would load beside it."""

import sys
from importlib import import_module
from types import ModuleType


def import_tvm_ffi() -> ModuleType:
    """The module `tvm_ffi`; torch is not imported along with it, unless it is loaded already.

    `tvm_ffi` imports torch where it finds it, only to exchange tensors with it: more than a second and some hundred
    megabytes for every process that opens a program.  An entry of None makes the import system say it is missing.
    """
    if "torch" in sys.modules or "tvm_ffi" in sys.modules:
        return import_module("tvm_ffi")
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        return import_module("tvm_ffi")
    finally:
        del sys.modules["torch"]
