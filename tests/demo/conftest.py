"""A little library of made-up source, and the settings of a training that takes a second."""

from pathlib import Path

import pytest

SETTINGS = {
    "layers": 2,
    "heads": 2,
    "head_dim": 8,
    "hidden": 16,
    "ffn": 24,
    "vocab": 280,
    "context": 32,
    "batch_tokens": 64,
    "tokens": 12 * 64,
}


@pytest.fixture
def settings() -> dict[str, int | float]:
    return dict(SETTINGS)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 modules, some of them held out, some of them tests, and files that must be left out."""
    folder = tmp_path_factory.mktemp("library")
    for number in range(120):
        inside = folder / ("test" if number % 10 == 0 else "package" if number % 2 else ".")
        inside.mkdir(exist_ok=True)
        (inside / f"module_{number}.py").write_text(source(number))
    (folder / "idlelib").mkdir()
    (folder / "idlelib" / "window.py").write_text(source(500))
    (folder / "encodings").mkdir()
    (folder / "encodings" / "cp000.py").write_text(source(501) + "decoding_table = ''\n")
    (folder / "latin.py").write_bytes(source(502).encode() + b"# caf\xe9\n")
    (folder / "short.py").write_text("x = 1\n")
    return folder


def source(number: int) -> str:
    names = [f"{word}_{number}" for word in ("alpha", "beta", "gamma", "delta")]
    functions = [
        f"def {name}(value, scale={index}):\n"
        f'    """Return the value number {number * 7 + index} times the scale."""\n'
        f"    result = value * scale + {number * 31 + index}\n"
        f"    return [{name!r}, result, {number % 11}, {number % 13}, {number % 17}]\n"
        for index, name in enumerate(names)
    ]
    return f"import module_{number}\n\n\n" + "\n\n".join(functions) + f"\n\nclass Holder{number}:\n    pass\n"
