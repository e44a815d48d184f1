import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.cli_units import bytes_text, count_text, seconds_text
from autotune.units import parse_count, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("2m", 120.0),
        ("2 min", 120.0),
        ("1h30m", 5400.0),
        ("1h 30m 5s", 5405.0),
        ("250ms", 0.25),
        ("20us", 20e-6),
        ("1ms 20µs", 1.02e-3),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("30d", 30 * 86400.0),
        (" 10 s ", 10.0),
        ("45", 45.0),
        (45, 45.0),
        (0.5, 0.5),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "5 minutes", "10x", "s", "1m30", "-5s", "1:30", True, None, [3]])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a duration; write 30s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MiB", 512 << 20),
        ("2GiB", 2 << 30),
        ("2 gib", 2 << 30),
        ("1GB", 10**9),
        ("512MB", 512 * 10**6),
        ("3g", 3 * 10**9),
        ("1.5KiB", 1536),
        ("1TiB", 1 << 40),
        ("0.3B", 0),
        ("1000", 1000),
        (1000, 1000),
        ("7b", 7),
        ("2,048", 2048),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "lots", "2XiB", "GiB", "-1GiB", "1GiB2", "nan", "inf", True, None, float("inf")])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a size; write 2GiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2M", 2_000_000),
        ("1.3B", 1_300_000_000),
        ("1.3 b", 1_300_000_000),
        ("500k", 500_000),
        ("131072", 131_072),
        ("131,072", 131_072),
        (131_072, 131_072),
        (2.0, 2),
    ],
)
def test_counts(text: object, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "many", "2MiB", "1.5", 1.5, "0.0001k", "-3", "1,2", True, None])
def test_what_is_no_count_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a count; write a whole number"):
        parse_count(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (843, "843 B"), (1023, "1023 B"), (1536, "1.5 KiB"), ((1 << 20) - 1, "1 MiB"), (3 << 29, "1.5 GiB")],
)
def test_sizes_are_written(size: int, text: str) -> None:
    assert bytes_text(size) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (950, "950"), (999.6, "1 k"), (131_072, "131 k"), (1_300_000_000, "1.3 B"), (65.3e12, "65.3 T")],
)
def test_counts_are_written(count: float, text: str) -> None:
    assert count_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (20e-6, "20 µs"),
        (0.0123, "12.3 ms"),
        (0.9999, "1 s"),
        (1.234, "1.23 s"),
        (59.97, "1 min"),
        (83, "1 min 23 s"),
        (3599.97, "1 h"),
        (5400, "1 h 30 min"),
        (86_399.99, "1 d"),
        (200_000, "2 d 8 h"),
        (-0.5, "-500 ms"),
    ],
)
def test_durations_are_written(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@given(st.floats(min_value=1e-6, max_value=1e7))
def test_what_is_written_of_a_duration_can_be_read(seconds: float) -> None:
    assert parse_duration(seconds_text(seconds)) == pytest.approx(seconds, rel=0.022)


@given(st.integers(min_value=0, max_value=1 << 50))
def test_what_is_written_of_sizes_and_counts_can_be_read(number: int) -> None:
    assert parse_size(bytes_text(number)) == pytest.approx(number, rel=0.006, abs=1)
    assert parse_count(count_text(number)) == pytest.approx(number, rel=0.006)
