"""How much is told: `-v` and `-q`, before the command or behind it.  The level of the package's log is the one place
where it is kept."""

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Annotated, Any

import typer

from autotune.errors import BadRequest

Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Tell more: the log down to its details.", rich_help_panel="Output"),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Tell errors only; results are printed as ever.", rich_help_panel="Output"),
]


def set_loudness(verbose: bool, quiet: bool) -> None:
    """Set what is told, unless neither was asked for; BadRequest if both were."""
    if verbose and quiet:
        raise BadRequest("--verbose and --quiet exclude each other")
    if verbose or quiet:
        logging.getLogger("autotune").setLevel(logging.DEBUG if verbose else logging.ERROR)


def tell(text: str) -> None:
    """Say on stderr what is good to know and no result, unless only errors are to be told."""
    if logging.getLogger("autotune").isEnabledFor(logging.WARNING):
        typer.echo(text, err=True)


def loud(command: Callable[..., None]) -> Callable[..., None]:
    """The command with `--verbose` and `--quiet` as further options."""

    @wraps(command)
    def called(*args: Any, verbose: bool = False, quiet: bool = False, **options: Any) -> None:
        set_loudness(verbose, quiet)
        command(*args, **options)

    signature = inspect.signature(command)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in (("verbose", Verbose), ("quiet", Quiet))
    ]
    called.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]
    return called


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Have the package's log shown on stderr, a line a record, and its level set back afterwards."""
    from autotune.log_lines import LogLines, stderr_console

    logger = logging.getLogger("autotune")
    level, lines = logger.level, LogLines(stderr_console())
    logger.addHandler(lines)
    try:
        yield
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)
