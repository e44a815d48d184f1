import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from autotune.errors import BadRequest
from autotune.search_space.axes import MOST_VALUES, Axis, parse_axis


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1:8", (1, 2, 3, 4, 5, 6, 7, 8)),
        ("128:704:64", (128, 192, 256, 320, 384, 448, 512, 576, 640, 704)),
        ("1:8:3", (1, 4, 7)),
        ("1,2,4", (1, 2, 4)),
        ("4,1,2,1", (1, 2, 4)),
        ("3:3", (3,)),
        ("7", (7,)),
        (" 1 : 2 ", (1, 2)),
    ],
)
def test_ranges_and_lists_are_read(text: str, values: tuple[int, ...]) -> None:
    assert parse_axis("layers", text).values == values


def test_an_axis_may_begin_at_zero() -> None:
    assert parse_axis("lookahead", "0:8", smallest=0).values == tuple(range(9))
    assert parse_axis("lookahead", "0", smallest=0).values == (0,)


@pytest.mark.parametrize(
    "text",
    ["", " ", "abc", "1:", ":8", "1:2:3:4", "1:8:0", "1:8:-1", "1,,2", "1.5", "0:8", "0,1", "-1", "-3:2", "1;2", "٣:x"],
)
def test_junk_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(BadRequest, match=r"--layers .*: write low:high, low:high:step or a,b,c"):
        parse_axis("layers", text)


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"--layers 9:3: the range is empty, 9 is more than 3"):
        parse_axis("layers", "9:3")


def test_an_absurd_range_is_refused_before_it_is_built() -> None:
    with pytest.raises(BadRequest, match="more than"):
        parse_axis("layers", "1:999999999999")
    assert len(parse_axis("layers", f"1:{MOST_VALUES}").values) == MOST_VALUES


@pytest.mark.parametrize(
    ("values", "step"), [((5,), 1), ((1, 2, 3), 1), ((2, 4, 6), 2), ((1, 2, 4), None), ((3, 8), 5)]
)
def test_the_step_of_an_axis(values: tuple[int, ...], step: int | None) -> None:
    assert Axis("ffn", values).step == step


@given(st.sets(st.integers(1, 60), min_size=1, max_size=8))
def test_every_value_can_be_suggested_and_nothing_else(values: set[int]) -> None:
    axis = Axis("ffn", tuple(sorted(values)))
    for value in values:
        trial = FixedTrial({"ffn": axis.param(value)})
        assert axis.suggest(trial) == value
        offered = trial.distributions["ffn"]
        if axis.step is None:
            assert offered.choices == tuple(str(each) for each in axis.values)
        else:
            assert tuple(range(offered.low, offered.high + 1, offered.step)) == axis.values


def test_values_within_a_limit() -> None:
    axis = Axis("ffn", (64, 128, 192))
    assert axis.within(130).values == (64, 128)
    assert axis.within(192) == axis
    with pytest.raises(BadRequest, match="--ffn leaves no value"):
        axis.within(63)


@pytest.mark.parametrize("values", [(2, 1), (1, 1)])
def test_values_must_ascend(values: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ascend"):
        Axis("ffn", values)
