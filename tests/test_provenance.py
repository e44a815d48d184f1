import sys

import pytest

from autotune.provenance import command_words


@pytest.mark.parametrize("words", [["--api-key", "sesame"], ["--api-key=sesame"]])
def test_the_command_is_told_without_its_secrets(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/autotune", "run", *words, "--seed", "1"])
    told = command_words()
    assert told[:2] == ["autotune", "run"]
    assert told[-2:] == ["--seed", "1"]
    assert "--api-key" in " ".join(told)
    assert "sesame" not in " ".join(told)


def test_a_module_is_named_as_it_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/autotune/__main__.py", "paper"])
    assert command_words() == ["python", "-m", "autotune", "paper"]
