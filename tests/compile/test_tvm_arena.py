import io
import tracemalloc

import numpy as np
import pytest

from autotune.candidate import DraftShape, Precision
from autotune.compile.graphs import tvm_packing
from autotune.compile.graphs.tvm_arena import ALIGNMENT_BYTES, LANES, Slot, plan
from autotune.compile.graphs.tvm_packing import write_arena
from autotune.quantization import INT4_ZERO, dequantised
from autotune.weights import FloatArray, random_weights
from tests.support.models import NUMERICS, styled_weights, tiny_weights

SHAPE = DraftShape(layers=3, heads=3, kv_heads=1, head_dim=10, hidden=36, ffn=20, vocab=70)
CAPACITY = 16


class _Discarding(io.BytesIO):
    """A file that only counts."""

    length = 0

    def write(self, content: object) -> int:
        size = memoryview(content).nbytes  # type: ignore[arg-type]
        self.length += size
        return size

    def tell(self) -> int:
        return self.length


def unpacked(content: bytes, begin: int, section: dict[str, Slot], name: str) -> FloatArray:
    """The packed matrix of that name as float32 `[columns, depth]`, columns and depth filled up."""

    def stored(part: str) -> np.ndarray:
        slot = section[part]
        count = int(np.prod(slot.shape))
        return np.frombuffer(content, slot.dtype, count, begin + slot.offset_bytes).reshape(slot.shape)

    values = stored(name)
    if values.dtype == np.uint32:
        words, scales = values[:, :, :-1], np.ascontiguousarray(values[:, :, -1]).view(np.float32)
        nibbles = (words[:, :, :, None, :] >> (4 * np.arange(8, dtype=np.uint32))[:, None]) & 15
        floats = (nibbles.astype(np.float32) - INT4_ZERO) * scales[:, :, None, None]
        values = floats.reshape(len(values), -1, LANES)
    elif values.dtype == np.int8:
        values = values * stored(f"{name}_scales")[:, None]
    return values.transpose(0, 2, 1).reshape(-1, values.shape[1]).astype(np.float32)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8, Precision.INT4])
def test_stored_matrices_are_those_that_the_proxy_scores(precision: Precision) -> None:
    weights, file = tiny_weights(SHAPE), io.BytesIO()
    write_arena(weights, precision, CAPACITY, file)
    arena, content, expected = plan(SHAPE, precision, CAPACITY), file.getvalue(), dequantised(weights, precision)
    assert len(content) == arena.size_bytes
    head = unpacked(content, arena.after_begins_bytes, dict(arena.after), "head")
    np.testing.assert_array_equal(head[: SHAPE.vocab, : SHAPE.hidden], expected.arrays["head"])
    assert not head[SHAPE.vocab :].any()
    for index in range(SHAPE.layers):
        begin = arena.layers_begin_bytes + index * arena.layer_bytes
        down = unpacked(content, begin, dict(arena.layer), "down")
        np.testing.assert_array_equal(down[: SHAPE.hidden, : SHAPE.ffn], expected.layer(index, "ffn.down"))
        gate_up = unpacked(content, begin, dict(arena.layer), "gate_up")
        both = gate_up.reshape(-1, 2, LANES // 2, gate_up.shape[1])[..., : SHAPE.hidden]
        for part, name in enumerate(("ffn.gate", "ffn.up")):
            rows = both[:, part].reshape(-1, SHAPE.hidden)[: SHAPE.ffn]
            np.testing.assert_array_equal(rows, expected.layer(index, name))


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8, Precision.INT4])
@pytest.mark.parametrize("model", ["usual", "opt-350m"])
def test_the_size_of_the_pieces_does_not_show(
    precision: Precision, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tiny_weights(SHAPE) if model == "usual" else styled_weights(model)
    files = []
    for piece_bytes in (tvm_packing.PIECE_BYTES, 1):
        monkeypatch.setattr(tvm_packing, "PIECE_BYTES", piece_bytes)
        files.append(io.BytesIO())
        write_arena(weights, precision, CAPACITY, files[-1])
    assert files[0].getvalue() == files[1].getvalue()


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8, Precision.INT4])
def test_packing_takes_little_more_memory_than_a_piece(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tables a hundred times as large; NumPy reports to tracemalloc what it allocates."""
    monkeypatch.setattr(tvm_packing, "PIECE_BYTES", 1 << 16)
    shape = DraftShape(layers=1, heads=4, kv_heads=4, head_dim=64, hidden=256, ffn=256, vocab=6400)
    weights = random_weights(shape, NUMERICS)
    tracemalloc.start()
    try:
        write_arena(weights, precision, CAPACITY, _Discarding())
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert shape.vocab * shape.hidden * 4 == 100 * tvm_packing.PIECE_BYTES
    assert peak_bytes < 16 * tvm_packing.PIECE_BYTES


def test_every_array_begins_on_a_cache_line() -> None:
    arena = plan(SHAPE, Precision.INT8, CAPACITY)
    for section in (arena.before, arena.layer, arena.after):
        assert all(slot.offset_bytes % ALIGNMENT_BYTES == 0 for slot in section.values())
        ends = [slot.end_bytes for slot in section.values()]
        begins = [slot.offset_bytes for slot in section.values()]
        assert all(end <= begin for end, begin in zip(ends, begins[1:], strict=False))
    assert arena.layer_bytes % ALIGNMENT_BYTES == 0
