import pytest

from autotune.candidate import DraftShape
from autotune.collective import check_collective, measure_all_reduce, tensor_parallel
from autotune.errors import BadRequest
from autotune.tensor_parallel import TensorParallel, shard
from autotune.weights import Numerics, random_weights

LLAMA_65B = DraftShape(layers=80, heads=64, kv_heads=64, head_dim=128, hidden=8192, ffn=22016, vocab=32000)
GROUPED = DraftShape(layers=2, heads=16, kv_heads=2, head_dim=8, hidden=128, ffn=64, vocab=320)


def test_a_part_has_its_share_of_everything_but_the_embedding() -> None:
    part = shard(LLAMA_65B, 4)
    assert (part.heads, part.kv_heads, part.ffn, part.head_rows) == (16, 16, 5504, 8000)
    assert (part.layers, part.hidden, part.vocab) == (80, 8192, 32000)
    assert part.decode_parameters == pytest.approx(LLAMA_65B.decode_parameters / 4, rel=1e-3)


def test_few_kv_heads_are_replicated() -> None:
    assert shard(GROUPED, 2).kv_heads == 1
    assert shard(GROUPED, 8).kv_heads == 1


def test_a_part_can_be_built() -> None:
    random_weights(shard(GROUPED, 4), Numerics("llama", 1e-5, 1e4, 64))


def test_one_device_holds_all_of_it() -> None:
    assert shard(GROUPED, 1) is GROUPED


@pytest.mark.parametrize(
    ("degree", "problem"),
    [
        (0, "at least one device"),
        (3, "the target's 16 heads cannot be split evenly"),
        (16, None),
        (32, "heads cannot be split evenly"),
    ],
)
def test_what_cannot_be_split_is_refused(degree: int, problem: str | None) -> None:
    if problem is None:
        assert shard(GROUPED, degree).heads == 1
        return
    with pytest.raises(BadRequest, match=problem):
        shard(GROUPED, degree)


def test_kv_heads_must_divide_or_be_divided() -> None:
    shape = DraftShape(layers=1, heads=12, kv_heads=6, head_dim=8, hidden=96, ffn=64, vocab=320)
    with pytest.raises(BadRequest, match="6 kv heads"):
        shard(shape, 4)


def test_collectives_grow_with_the_layers() -> None:
    assert TensorParallel(4, 20e-6).collectives_s(80) == pytest.approx(161 * 20e-6)
    assert TensorParallel().collectives_s(80) == 0.0


def test_a_collective_is_as_given() -> None:
    given = tensor_parallel(4, 2e-5, device="cpu", hidden=8192, positions=9)
    assert given == TensorParallel(4, 2e-5)
    assert tensor_parallel(1, None, device="cpu", hidden=8192, positions=9) == TensorParallel()


@pytest.mark.parametrize(("device", "gpus"), [("cpu", 8), ("cuda", 2)])
def test_a_collective_that_cannot_be_measured_must_be_given(device: str, gpus: int) -> None:
    with pytest.raises(BadRequest, match="--collective-latency 20us"):
        check_collective(4, None, device, count_gpus=lambda: gpus)
    check_collective(4, None, "cuda", count_gpus=lambda: 4)
    check_collective(4, 2e-5, device)


def test_a_collective_on_one_device_is_a_mistake() -> None:
    with pytest.raises(BadRequest, match="--target-tp 2 or more"):
        tensor_parallel(1, 2e-5, device="cpu", hidden=8192, positions=9)


@pytest.mark.gpu
def test_an_all_reduce_among_gpus_takes_time() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.device_count() < 2:
        pytest.skip("an all-reduce needs two GPUs")
    assert measure_all_reduce(2, 5, 4096) > 0
