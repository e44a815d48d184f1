import pytest

from tests.support.conformance import BackendConformance

pytest.importorskip("tvm", reason="apache-tvm is not installed")


class TestTvmConformance(BackendConformance):
    backend = "tvm"
