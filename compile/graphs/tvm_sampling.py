"""How tokens are chosen in a CPU program: the arg-max, or a draw as `autotune.sampling.distribution` defines it.

The filters sort nothing.  Top-k keeps the logits that are at least the k-th largest, and top-p those that are at least
the last one needed for its mass: both look for a threshold by bisection, counting or adding up in vectors what lies
above.  Bits of floats, put in order, are the numbers that are halved, so 32 passes find any threshold exactly.
"""

from collections.abc import Callable
from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812 (its usual name)

from autotune.compile.graphs.tvm_arena import blocks
from autotune.compile.graphs.tvm_primitives import LANES, LOWEST, add, exponential, fill, local, reduce_lanes, store

_SMALLEST_EXPONENT = -87.0
"""Where `exponential` ends; what is less likely than e to this power gets probability 0."""
_MAGNITUDE_BITS = 0x7FFFFFFF


def argmax(logits: Any, after: Any, ids: Any, head_rows: int, rows: Any) -> None:
    """Adds the first of the largest logits of each row, padded columns left out; ids: tokens of the head's rows."""
    with T.serial(rows) as row, T.sblock("row"):
        best, place = local((LANES,)), local((LANES,), "int32")
        largest, found = local((1,)), local((1,), "int32")
        fill(best, T.float32(LOWEST), LANES)
        fill(place, T.int32(0), LANES)
        with T.serial(blocks(head_rows)) as block:
            for target, chosen in ((place, lambda token, _: token), (best, lambda _, logit: logit)):
                with T.vectorized(LANES) as j:
                    token = block * LANES + j
                    logit = T.Select(token < head_rows, logits[row, token], T.float32(LOWEST))
                    store(target, [j], T.Select(logit > best[j], chosen(token, logit), target[j]))
        store(largest, [0], best[0])
        store(found, [0], place[0])
        with T.serial(1, LANES) as j:
            earlier = T.And(best[j] == largest[0], place[j] < found[0])
            with T.If(T.Or(best[j] > largest[0], earlier)), T.Then():
                store(largest, [0], best[j])
                store(found, [0], place[j])
        store(after, [row], _token(ids, found[0]))


def confidence(logits: Any, row: Any, head_rows: int, result: tuple[Any, list[Any]]) -> None:
    """Adds the largest probability of the softmax of the row, and writes it to the result's place."""
    with T.sblock("confidence"):
        lanes, largest, total = local((LANES,)), local((1,)), local((1,))
        _mask_padding(logits, row, head_rows)
        _maximum(logits, row, head_rows, lanes, largest)
        fill(lanes, T.float32(0), LANES)
        with T.serial(blocks(head_rows)) as block, T.vectorized(LANES) as j:
            store(lanes, [j], lanes[j] + exponential(logits[row, block * LANES + j] - largest[0]))
        reduce_lanes(lanes, total, add, LANES)
        store(*result, T.float32(1) / total[0])


def draw(
    logits: Any,
    row: Any,
    head_rows: int,
    settings: Any,
    uniform: Any,
    weights: Callable[[Any], tuple[Any, list[Any]]],
    probability: tuple[Any, list[Any]],
    largest_probability: tuple[Any, list[Any]],
    chosen: tuple[Any, list[Any]],
    ids: Any,
    block_sums: Any,
) -> None:
    """Adds the draw of one token.

    settings: float32 `[3]`: temperature (not 0), top-k, top-p; uniform: float64 in [0, 1).  weights(i): the buffer, and
    the place in it, of the i-th column's probability, which is written; probability, largest_probability and chosen:
    where that of the token drawn, that of the likeliest one, and the token drawn are written; block_sums: scratch.
    """
    with T.sblock("draw"):
        lanes, total, threshold = local((LANES,)), local((1,)), local((2,), "int64")
        largest, wanted = local((1,)), local((1,))
        cumulated, found = local((2,), "float64"), local((3,), "int32")

        def weight(i: Any) -> Any:
            buffer, place = weights(i)
            return buffer[tuple(place)]

        def above(bound: Any, value: Callable[[Any], Any]) -> None:
            """Adds up the values of the columns whose logit is at least the bound, to `total`."""
            fill(lanes, T.float32(0), LANES)
            with T.serial(blocks(head_rows)) as block, T.vectorized(LANES) as j:
                column = block * LANES + j
                taken = T.Select(logits[row, column] >= bound, value(column), T.float32(0))
                store(lanes, [j], lanes[j] + taken)
            reduce_lanes(lanes, total, add, LANES)

        def bisect(value: Callable[[Any], Any]) -> None:
            """Adds the search for the largest threshold above which the values reach `wanted`, to `threshold[0]`.

            `threshold[0]` is known to be low enough.
            """
            store(threshold, [1], _order(largest[0]) + T.int64(1))
            with T.While(threshold[1] - threshold[0] > T.int64(1)):
                middle = T.bind(threshold[0] + T.shift_right(threshold[1] - threshold[0], T.int64(1)))
                above(_float(middle), value)
                with T.If(total[0] >= wanted[0]):
                    with T.Then():
                        store(threshold, [0], middle)
                        with T.If(total[0] == wanted[0]), T.Then():
                            store(threshold, [1], middle + T.int64(1))
                    with T.Else():
                        store(threshold, [1], middle)

        _mask_padding(logits, row, head_rows)
        _maximum(logits, row, head_rows, lanes, largest)
        with T.serial(blocks(head_rows)) as block, T.vectorized(LANES) as j:
            exponent = (logits[row, block * LANES + j] - largest[0]) / settings[0]
            value = T.Select(exponent < T.float32(_SMALLEST_EXPONENT), T.float32(0), exponential(exponent))
            store(*weights(block * LANES + j), value)

        store(threshold, [0], _order(T.float32(LOWEST)))
        with T.If(T.And(settings[1] >= T.float32(1), settings[1] < T.float32(head_rows))), T.Then():
            store(wanted, [0], settings[1])
            bisect(lambda _: T.float32(1))
        with T.If(settings[2] < T.float32(1)), T.Then():
            above(_float(threshold[0]), weight)
            store(wanted, [0], total[0] * settings[2])
            bisect(weight)

        # What is left, block by block; sums over blocks in float64, as the reference has them.
        store(cumulated, [0], T.float64(0))
        with T.serial(blocks(head_rows)) as block:
            with T.vectorized(LANES) as j:
                column = block * LANES + j
                kept = logits[row, column] >= _float(threshold[0])
                store(*weights(column), T.Select(kept, weight(column), T.float32(0)))
            with T.vectorized(LANES) as j:
                store(lanes, [j], weight(block * LANES + j))
            reduce_lanes(lanes, total, add, LANES)
            store(block_sums, [block], total[0])
            store(cumulated, [0], cumulated[0] + T.Cast("float64", total[0]))

        # The block in which the cumulated weights pass the mark, and the column in it; else the last with any weight.
        mark = T.bind(uniform * cumulated[0])
        store(cumulated, [1], T.float64(0))
        store(found, [0], T.int32(-1))
        store(found, [2], T.int32(0))
        with (
            T.serial(blocks(head_rows)) as block,
            T.If(T.And(found[0] < 0, block_sums[block] > T.float32(0))),
            T.Then(),
        ):
            store(found, [2], block)
            after_block = cumulated[1] + T.Cast("float64", block_sums[block])
            with T.If(after_block > mark):
                with T.Then():
                    store(found, [0], block)
                with T.Else():
                    store(cumulated, [1], after_block)
        store(found, [0], T.int32(-1))
        store(found, [1], T.int32(0))
        with T.serial(LANES) as j:
            column = found[2] * LANES + j
            with T.If(T.And(found[0] < 0, weight(column) > T.float32(0))), T.Then():
                store(found, [1], column)
                store(cumulated, [1], cumulated[1] + T.Cast("float64", weight(column)))
                with T.If(cumulated[1] > mark), T.Then():
                    store(found, [0], column)

        scale = T.bind(T.Cast("float32", T.float64(1) / cumulated[0]))
        with T.serial(blocks(head_rows)) as block, T.vectorized(LANES) as j:
            store(*weights(block * LANES + j), weight(block * LANES + j) * scale)
        store(*probability, weight(found[1]))
        store(*largest_probability, scale)  # its weight was e to the power 0
        store(*chosen, _token(ids, found[1]))


def _mask_padding(logits: Any, row: Any, head_rows: int) -> None:
    """Adds the lowest number as the logit of every column behind the head's rows."""
    with T.serial(blocks(head_rows) * LANES - head_rows) as i:
        store(logits, [row, head_rows + i], T.float32(LOWEST))


def _maximum(logits: Any, row: Any, head_rows: int, lanes: Any, largest: Any) -> None:
    """Adds the largest logit of the row, to `largest[0]`."""
    fill(lanes, T.float32(LOWEST), LANES)
    with T.serial(blocks(head_rows)) as block, T.vectorized(LANES) as j:
        store(lanes, [j], T.max(lanes[j], logits[row, block * LANES + j]))
    reduce_lanes(lanes, largest, T.max, LANES)


def _order(value: Any) -> Any:
    """An int64 that is larger for larger floats, next to its neighbours'."""
    bits = T.reinterpret("int32", value)
    return T.Cast("int64", T.Select(bits < 0, T.bitwise_xor(bits, T.int32(_MAGNITUDE_BITS)), bits))


def _float(order: Any) -> Any:
    """The float that `_order` makes this of."""
    narrow = T.Cast("int32", order)
    bits = T.Select(narrow < 0, T.bitwise_xor(narrow, T.int32(_MAGNITUDE_BITS)), narrow)
    return T.reinterpret("float32", bits)


def _token(ids: Any, row: Any) -> Any:
    """The token of a row of the head; ids: None where row i is token i."""
    return T.Cast("int64", row) if ids is None else ids[row]
