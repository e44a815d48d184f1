"""Options that several commands have, and how their examples are shown."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from autotune.cli_completion import complete_model
from autotune.units import parse_count, parse_duration, parse_size

Target = Annotated[
    str | None,
    typer.Option(
        help="Target: 'demo', a name of `autotune targets`, a checkpoint's folder, or owner/name on the hub.",
        autocompletion=complete_model,
    ),
]
Prompts = Annotated[str | None, typer.Option(help="Prompts file (.jsonl or text, one a line), or 'builtin'.")]
Model = Annotated[str | None, typer.Option(help="The target's name at its server; default: the only one there.")]
ApiKey = Annotated[str | None, typer.Option(help="The server's key; better: $AUTOTUNE_API_KEY or $OPENAI_API_KEY.")]
Artifact = Annotated[Path, typer.Argument(help="Artifact folder.", show_default=False)]


def duration_option(meaning: str) -> Any:
    """An option that is a duration such as `30s` or `1h30m`; its value is seconds, not negative."""
    return typer.Option(help=meaning, parser=_seconds, metavar="DURATION")


def size_option(meaning: str) -> Any:
    """An option that is a size such as `4MiB`; its value is bytes."""
    return typer.Option(help=meaning, parser=parse_size, metavar="SIZE")


def count_option(meaning: str) -> Any:
    """An option that is a count such as `2M`; its value is a whole number."""
    return typer.Option(help=meaning, parser=parse_count, metavar="COUNT")


def epilog(examples: Iterable[str]) -> str:
    """The end of a command's help: examples, a line each."""
    return "\n".join(["[bold]Examples[/]", *(example.replace("[", r"\[") for example in examples)])


def _seconds(text: str) -> float:
    seconds = parse_duration(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{text!r} is not a duration: it must be finite and not negative")
    return seconds
