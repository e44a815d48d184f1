"""What programs are made for follows from the processor's flags."""

from collections.abc import Iterator

import pytest

from autotune.compile import processor
from autotune.compile.processor import adds_bytes_exactly, register_floats


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    for known in (adds_bytes_exactly, register_floats):
        known.cache_clear()
    yield
    for known in (adds_bytes_exactly, register_floats):
        known.cache_clear()


@pytest.mark.parametrize(
    ("flags", "floats", "exactly"),
    [
        ("sse2 avx2 avx512f avx512_vnni", 512, True),
        ("sse2 avx2 avx512f", 512, False),
        ("sse2 avx2 avx_vnni", 128, True),
        ("sse2 avx2", 128, False),
        ("asimd asimddp", 128, True),
        ("", 128, True),
    ],
)
def test_flags_tell_registers_and_products(
    monkeypatch: pytest.MonkeyPatch, flags: str, floats: int, exactly: bool
) -> None:
    monkeypatch.setattr(processor, "processor_flags", lambda: frozenset(flags.split()))
    assert register_floats() == floats
    assert adds_bytes_exactly() is exactly
