from pathlib import Path

import pytest

from autotune import backends
from autotune.backends import check_kernel_tuning, with_usable_backends
from autotune.candidate import Precision
from autotune.compile.base import load_backend
from autotune.config import make_config
from autotune.errors import BadRequest


class Compiler:
    def __init__(self, *precisions: Precision) -> None:
        self._precisions = frozenset(precisions)

    def precisions(self, device: str) -> frozenset[Precision]:
        return self._precisions


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which ONNX Runtime has fp32 and int8, and TVM is missing."""

    def load(name: str, device: str = "cpu") -> Compiler:
        if name == "tvm":
            raise BadRequest("backend tvm is not installed: pip install apache-tvm")
        return Compiler(Precision.FP32, Precision.INT8)

    monkeypatch.setattr(backends, "load_backend", load)


@pytest.mark.usefixtures("only")
def test_a_default_backend_that_is_missing_is_left_out() -> None:
    assert with_usable_backends(make_config({}), "cpu").backend == ("onnxruntime",)


@pytest.mark.usefixtures("only")
def test_what_the_user_named_is_left_alone(tmp_path: Path) -> None:
    toml = tmp_path / "tune.toml"
    toml.write_text('backend = "tvm"\n')
    for config in (make_config({"backend": "tvm"}), make_config({}, toml)):
        assert with_usable_backends(config, "cpu").backend == ("tvm",)


def test_a_default_backend_without_the_precisions_asked_for_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    has = {"onnxruntime": Compiler(Precision.FP32), "tvm": Compiler(Precision.FP32, Precision.INT4)}
    monkeypatch.setattr(backends, "load_backend", lambda name, device: has[name])
    assert with_usable_backends(make_config({"precision": "int4"}), "cpu").backend == ("tvm",)
    assert with_usable_backends(make_config({"precision": "int4,fp32"}), "cpu").backend == ("onnxruntime", "tvm")


def test_with_no_backend_at_all_the_first_one_s_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, device: str) -> Compiler:
        raise BadRequest(f"backend {name} is not installed")

    monkeypatch.setattr(backends, "load_backend", load)
    with pytest.raises(BadRequest, match="onnxruntime is not installed"):
        with_usable_backends(make_config({}), "cpu")


def test_without_tvm_its_backend_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.compile.tvm_backend.find_spec", lambda name: None)
    with pytest.raises(BadRequest, match="pip install 'apache-tvm"):
        load_backend("tvm")
    assert with_usable_backends(make_config({}), "cpu").backend == ("onnxruntime",)


def test_only_tvm_s_programs_for_the_cpu_are_tuned() -> None:
    check_kernel_tuning(make_config({"tune-kernels": "1m"}))
    for flags in ({"backend": "onnxruntime"}, {"device": "cuda"}):
        with pytest.raises(BadRequest, match="--tune-kernels"):
            check_kernel_tuning(make_config({"tune-kernels": "1m", **flags}))
