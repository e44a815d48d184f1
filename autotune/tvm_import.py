"""Imports TVM without the torch that it would load beside it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType


@contextmanager
def torch_left_out() -> Iterator[None]:
    """Inside of the block torch cannot be imported, unless it or TVM is loaded already.

    TVM and its binding layer import torch where they find it, only to exchange tensors with it: more than a second and
    some hundred megabytes for every process.  An entry of None makes the import system say that it is missing.
    """
    if "torch" in sys.modules or "tvm" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


def import_tvm_ffi() -> ModuleType:
    """The binding layer, `tvm_ffi`."""
    if "tvm_ffi" in sys.modules:
        return import_module("tvm_ffi")
    with torch_left_out():
        return import_module("tvm_ffi")
