from tests.support.conformance import BackendConformance


class TestOrtConformance(BackendConformance):
    backend = "onnxruntime"
