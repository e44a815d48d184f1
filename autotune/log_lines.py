"""The package's log on stderr, a line a record, and the console it shares with the display of progress."""

import logging
import os
import sys
from typing import Literal

from rich.console import Console


def colours() -> Literal["auto"] | None:
    """Which colours and styles rich may use: none where NO_COLOR is set."""
    return None if os.environ.get("NO_COLOR") else "auto"


def stderr_console() -> Console:
    """A console on stderr: plain where it is no terminal, or NO_COLOR is set, and redrawn only on a real terminal."""
    return Console(
        stderr=True,
        highlight=False,
        color_system=colours(),
        force_interactive=None if sys.stderr.isatty() else False,
    )


class LogLines(logging.Handler):
    """Prints what the log lets through, one line each; details say where they come from."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record's message."""
        where = "" if record.levelno >= logging.WARNING else f" {record.name.removeprefix('autotune.')}:"
        text = f"{record.levelname.lower()}:{where} {record.getMessage()}"
        self._console.print(text, markup=False, soft_wrap=True)
