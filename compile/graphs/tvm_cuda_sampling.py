"""Draws a burst's tokens where their logits are: the CUDA kernel that follows `autotune.sampling`.

top-k and top-p both keep the tokens whose weight reaches a threshold.  Weights are exponentials of distances to the
largest logit, so they lie in 0 … 1, and the bits of such floats are ordered as they are: the threshold is found by
searching among the bits, eight ways at once.  Equal weights are kept or dropped together.
"""

from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812 (its usual name)

from autotune.compile.graphs.tvm_cuda_code import (
    LOWEST,
    Size,
    barrier,
    block_combine,
    block_max,
    block_sum,
    kernel,
    launched,
    put,
    registers,
    shared,
    when,
)
from autotune.compile.graphs.tvm_cuda_kernels import STATE, advance, count_of_rows

DICE_NOISE = 4
"""Where the uniform numbers begin in `dice`, behind 1 / temperature, top-k, top-p and a spare."""

_THREADS = 512
_WAYS = 8
_ONE = 0x3F800000
"""Bits of 1."""
_ROUNDS = 12
"""Enough for eight ways to find one of 2^30 patterns, with steps rounded up."""


def dice_size(longest_burst: int) -> Size:
    """The sampling settings and a uniform number for every token of a burst."""
    return (DICE_NOISE + longest_burst,), "float32"


def draw(head_rows: int, longest_burst: int, logits: Size, head_tokens: Size | None) -> Any:
    """A kernel `(logits, state, dice, [ids,] distributions, chosen, drafted)`: draws the token after the last row.

    distributions `[longest_burst, head_rows]`: what each was drawn from; chosen: its probability there.
    """
    share = -(-head_rows // _THREADS)

    def body(logits: Any, state: Any, dice: Any, *others: Any) -> None:
        ids = others[0] if head_tokens else None
        distributions, chosen, drafted = others[bool(head_tokens) :]
        with launched(_THREADS, 1) as (thread, _):
            number, cut, total = registers(1), registers(1, dtype="int32"), registers(1)
            step, found, place = registers(1, dtype="int32"), registers(1, dtype="int32"), registers(1, dtype="int32")
            passed, running, token = registers(_WAYS - 1), shared(2, _THREADS), registers(1, dtype="int64")
            end, wanted = registers(1, dtype="int32"), registers(1)
            burst_place = T.Cast("int32", state[2])
            row = count_of_rows(state) - 1

            def weight(i: Any) -> Any:
                return distributions[burst_place, i]

            def each_share() -> Any:
                """A loop over the thread's tokens, which are neighbours."""
                return T.serial(share)

            def mine(i: Any) -> Any:
                return thread * share + i

            def spread() -> Any:
                """A loop over the thread's tokens, which are far apart so that neighbouring threads' are neighbours."""
                return T.serial(share)

            def apart(i: Any) -> Any:
                return i * _THREADS + thread

            def raise_cut(value: Any) -> None:
                """Raise `cut` to the largest bits of which tokens with such a weight or a larger reach `wanted`."""
                put(end, [0], T.int32(_ONE + 1))
                with T.serial(_ROUNDS):
                    put(step, [0], (end[0] - cut[0] + (_WAYS - 1)) // _WAYS)
                    for way in range(_WAYS - 1):
                        put(passed, [way], T.float32(0))
                    with spread() as i, when(apart(i) < head_rows):
                        put(number, [0], weight(apart(i)))
                        for way in range(_WAYS - 1):
                            reached = bits(number[0]) >= cut[0] + step[0] * (way + 1)
                            put(passed, [way], passed[way] + T.Select(reached, value, T.float32(0)))
                    block_combine(
                        passed, _WAYS - 1, thread, _THREADS, lambda a, b: [x + y for x, y in zip(a, b, strict=True)]
                    )
                    put(found, [0], T.int32(0))
                    for way in range(_WAYS - 1):
                        put(found, [0], found[0] + T.Select(passed[way] >= wanted[0], T.int32(1), T.int32(0)))
                    put(cut, [0], cut[0] + found[0] * step[0])
                    put(end, [0], T.min(end[0], cut[0] + step[0]))
                    barrier()

            def sum_above() -> None:
                """`total`: the sum of the weights that reach the cut."""
                put(total, [0], T.float32(0))
                with spread() as i, when(apart(i) < head_rows), when(bits(weight(apart(i))) >= cut[0]):
                    put(total, [0], total[0] + weight(apart(i)))
                block_sum(total, thread, _THREADS)

            def bits(value: Any) -> Any:
                return T.reinterpret("int32", value)

            # Weights: exponentials of the scaled logits' distances to the largest.
            put(number, [0], T.float32(LOWEST))
            with spread() as i, when(apart(i) < head_rows):
                put(number, [0], T.max(number[0], logits[row, apart(i)]))
            block_max(number, thread, _THREADS)
            with spread() as i, when(apart(i) < head_rows):
                put(distributions, [burst_place, apart(i)], T.exp((logits[row, apart(i)] - number[0]) * dice[0]))
            barrier()

            # The filters.
            put(cut, [0], T.int32(0))
            with when(T.And(dice[1] > T.float32(0), dice[1] < T.float32(head_rows))):
                put(wanted, [0], dice[1])
                raise_cut(T.float32(1))
            sum_above()
            with when(dice[2] < T.float32(1)):
                put(wanted, [0], dice[2] * total[0])
                raise_cut(number[0])
                sum_above()

            # Probabilities, and their sums up to and with each thread's share of the tokens.
            with spread() as i, when(apart(i) < head_rows):
                kept = bits(weight(apart(i))) >= cut[0]
                put(
                    distributions,
                    [burst_place, apart(i)],
                    T.Select(kept, weight(apart(i)) / total[0], T.float32(0)),
                )
            barrier()
            put(number, [0], T.float32(0))
            with each_share() as i, when(mine(i) < head_rows):
                put(number, [0], number[0] + weight(mine(i)))
            put(running, [0, thread], number[0])
            barrier()
            distance, side = 1, 0
            while distance < _THREADS:
                put(running, [1 - side, thread], running[side, thread])
                with when(thread >= distance):
                    put(running, [1 - side, thread], running[side, thread] + running[side, thread - distance])
                barrier()
                distance, side = 2 * distance, 1 - side

            # The first share whose sum passes the uniform number, and in it the first token; the last of those with
            # any probability where rounding leaves none.
            put(wanted, [0], dice[DICE_NOISE + burst_place] * running[side, _THREADS - 1])
            passes = T.And(number[0] > T.float32(0), running[side, thread] > wanted[0])
            put(passed, [0], T.Select(passes, T.Cast("float32", -thread), T.float32(LOWEST)))
            put(passed, [1], T.Select(number[0] > T.float32(0), T.Cast("float32", thread), T.float32(-1)))
            block_combine(passed, 2, thread, _THREADS, lambda a, b: [T.max(x, y) for x, y in zip(a, b, strict=True)])
            winner = T.Select(passed[0] > T.float32(LOWEST), -passed[0], T.max(passed[1], T.float32(0)))
            with when(thread == T.Cast("int32", winner)):
                put(total, [0], running[side, thread] - number[0])
                put(found, [0], T.int32(0))
                put(place, [0], T.int32(0))
                unfinished = found[0] == 0
                with each_share() as i, when(T.And(mine(i) < head_rows, unfinished)), when(weight(mine(i)) > 0.0):
                    put(place, [0], mine(i))
                    put(total, [0], total[0] + weight(mine(i)))
                    with when(total[0] > wanted[0]):
                        put(found, [0], T.int32(1))
                put(token, [0], T.Cast("int64", place[0]) if ids is None else ids[place[0]])
                put(chosen, [burst_place], weight(place[0]))
                advance(state, drafted, token[0])

    sizes: dict[str, Size] = {"ids": head_tokens} if head_tokens else {}
    return kernel(
        body,
        logits=logits,
        state=STATE,
        dice=dice_size(longest_burst),
        **sizes,
        distributions=((longest_burst, head_rows), "float32"),
        chosen=((longest_burst,), "float32"),
        drafted=((longest_burst,), "int64"),
    )
