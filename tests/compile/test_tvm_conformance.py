import pytest

from autotune.devices import find_device
from autotune.errors import BadRequest
from tests.support.conformance import BackendConformance
from tests.support.models import STYLED

pytest.importorskip("tvm", reason="apache-tvm is not installed")


class TestTvmConformance(BackendConformance):
    backend = "tvm"
    styles = tuple(STYLED)


def gpu_missing() -> str | None:
    """Why there is no GPU to test on; None if there is one."""
    try:
        find_device("cuda")
    except BadRequest as error:
        return str(error)
    return None


@pytest.mark.gpu
@pytest.mark.skipif(gpu_missing() is not None, reason=f"needs a GPU: {gpu_missing()}")
class TestTvmConformanceOnCuda(BackendConformance):
    """In fp32; the half precisions are held to the weights they store."""

    backend = "tvm"
    device = "cuda"
