import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import BadRequest
from autotune.runtime.stops import StopStrings

words = st.text("ab", min_size=1, max_size=3)


@given(st.lists(st.text("ab", max_size=4), max_size=8), st.lists(words, max_size=3))
def test_streamed_text_is_the_whole_text_cut_at_the_first_stop(pieces: list[str], stops: list[str]) -> None:
    cutter = StopStrings(stops)
    passed = []
    for piece in pieces:
        passed.append(cutter.push(piece))
        if cutter.stopped:
            break
    streamed = "".join(passed) + cutter.finish()
    text = "".join(pieces)
    ends = sorted(at + len(stop) for stop in stops if (at := text.find(stop)) >= 0)
    if not ends:
        assert streamed == text
        assert not cutter.stopped
    else:
        assert cutter.stopped
        assert not any(stop in streamed for stop in stops)
        assert text.startswith(streamed)


def test_a_beginning_of_a_stop_is_held_back_until_it_is_none() -> None:
    cutter = StopStrings(["END"])
    assert cutter.push("the E") == "the "
    assert cutter.push("N") == ""
    assert cutter.push("x") == "ENx"
    assert cutter.push("EN") == ""
    assert cutter.finish() == "EN"


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(BadRequest, match="empty"):
        StopStrings([""])
