import pytest

from autotune.candidate import Precision
from autotune.errors import BadRequest
from autotune.precisions import Supported, draft_precisions, target_precision

FP32, FP16, BF16, INT8, INT4 = Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8, Precision.INT4
CPU: Supported = {"onnxruntime": frozenset({FP32, INT8, INT4}), "tvm": frozenset({FP32})}
GPU: Supported = {"onnxruntime": frozenset({FP16, BF16})}


def test_the_devices_usual_precisions_are_taken_unless_others_are_asked_for() -> None:
    assert draft_precisions(None, "cpu", CPU) == (FP32, INT8)
    assert draft_precisions(None, "cpu", {"tvm": CPU["tvm"]}) == (FP32,)
    assert draft_precisions(None, "cuda", GPU) == (FP16,)
    assert draft_precisions(None, "cuda", {"tvm": frozenset({FP32, BF16})}) == (BF16, FP32)
    assert draft_precisions((INT4, FP32), "cpu", CPU) == (INT4, FP32)


@pytest.mark.parametrize(
    ("asked", "device", "supported", "message"),
    [
        ((FP32,), "cuda", GPU, "backend onnxruntime has no fp32 on cuda; use --precision bf16, fp16"),
        ((FP16,), "cpu", CPU, "backends onnxruntime and tvm have no fp16 on cpu; use --precision fp32, int4, int8"),
        ((INT8,), "cpu", CPU, "backend tvm has none of the precisions asked for on cpu; add --precision fp32"),
        (None, "cuda", {**GPU, "tvm": frozenset()}, "backend tvm has no code for cuda: leave it out of --backend"),
    ],
)
def test_a_precision_or_backend_asked_for_in_vain_is_refused(
    asked: tuple[Precision, ...] | None, device: str, supported: Supported, message: str
) -> None:
    with pytest.raises(BadRequest, match=message):
        draft_precisions(asked, device, supported)


def test_a_target_is_compiled_in_the_best_precision_of_its_backend() -> None:
    assert target_precision(None, "cpu", CPU) is FP32
    assert target_precision(None, "cuda", GPU) is FP16
    assert target_precision(BF16, "cuda", GPU) is BF16
    both = {"tvm": frozenset({FP32, FP16}), **GPU}
    assert target_precision(None, "cuda", both) is FP32
    assert target_precision(None, "cuda", dict(reversed(both.items()))) is FP16


@pytest.mark.parametrize("quantised", [INT8, INT4])
def test_a_quantised_target_is_compiled_by_those_that_do_it_exactly(quantised: Precision) -> None:
    exact = {"onnxruntime": frozenset({FP32}), "tvm": frozenset({FP32, INT8, INT4})}
    assert target_precision(quantised, "cpu", exact) is quantised
    assert target_precision(None, "cpu", exact) is FP32
    message = (
        f"--target-precision {quantised}: backend onnxruntime has no {quantised} target on cpu whose logits do not"
    )
    with pytest.raises(BadRequest, match=message):
        target_precision(quantised, "cpu", {"onnxruntime": exact["onnxruntime"]})


def test_a_target_precision_the_backend_lacks_is_refused() -> None:
    with pytest.raises(BadRequest, match="has no fp32 target on cuda; use bf16, fp16"):
        target_precision(FP32, "cuda", GPU)
    with pytest.raises(BadRequest, match="backend quick can compile no target for cpu"):
        target_precision(None, "cpu", {"quick": frozenset({INT8})})
