import pytest

from autotune.candidate import Precision
from autotune.devices import find_device
from autotune.errors import BadRequest
from autotune.runtime import session
from tests.support.compiled import Compiled
from tests.support.conformance import BackendConformance
from tests.support.models import STYLED
from tests.support.ort_on_cpu import OrtOnCpu


class TestOrtConformance(BackendConformance):
    backend = "onnxruntime"
    styles = tuple(STYLED)


class OnCuda(BackendConformance):
    """Half precision; a step of fp16 is a thousandth of the number, and every activation is rounded to one."""

    backend = "onnxruntime"
    device = "cuda"
    styles = tuple(STYLED)
    exact = Precision.FP16
    tolerance = 1e-2
    agreement = 1e-3  # biases are added before or after rounding, as the operators are fused


class TestProgramsForCudaOnTheCpu(OnCuda):
    """The graphs and the session for a GPU, without one: fp16 attention is there on the CPU too, bf16 is not."""

    @pytest.fixture(autouse=True)
    def pretend(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session, "check_compiled_for", lambda kind, folder: None)
        entry = f"{OrtOnCpu.__module__}:{OrtOnCpu.__name__}"
        monkeypatch.setattr(session, "SESSIONS", {"onnxruntime": {"cuda": entry}})

    @pytest.fixture(autouse=True)
    def without_bfloat16(self, request: pytest.FixtureRequest) -> None:
        if getattr(request.node, "callspec", None) and request.node.callspec.params.get("precision") == "bf16":
            pytest.skip("ONNX Runtime has no bf16 attention on the CPU")

    def test_a_moved_program_runs_in_a_fresh_process(self, compiled: Compiled, tmp_path: object) -> None:
        pytest.skip("a fresh process would look for a GPU")


def gpu_missing() -> str | None:
    """Why there is no GPU to test on; None if there is one."""
    try:
        find_device("cuda")
    except BadRequest as error:
        return str(error)
    return None


@pytest.mark.gpu
@pytest.mark.skipif(gpu_missing() is not None, reason=f"needs a GPU: {gpu_missing()}")
class TestOrtConformanceOnCuda(OnCuda):
    agreement = 1e-2  # unlike the CPU's, a GPU's products are summed up in another order for another width
