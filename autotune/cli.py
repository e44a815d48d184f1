"""The `autotune` command.  Results go to stdout, progress and errors to stderr."""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

from autotune import cli_artifact, cli_db, cli_init, cli_paper, cli_run, cli_runs, cli_serve, cli_targets, cli_traces
from autotune.cli_json import AsJson, print_json
from autotune.cli_loudness import Quiet, Verbose, log_to_stderr, loud, set_loudness
from autotune.cli_options import epilog
from autotune.cli_typos import usage_message
from autotune.errors import AutotuneError, Interrupted, MissingEvidence

EXIT_BAD_REQUEST = 2
EXIT_MISSING_EVIDENCE = 3
EXIT_INTERRUPTED = 130

SEARCH, RUNS, ARTIFACTS = "Search", "Runs", "Artifacts"
TARGETS, MACHINE = "Targets and traces", "Machine and research"
"""The headings of the commands."""

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}

app = typer.Typer(
    help="Find, compile and ship the draft model that makes your target LLM fastest on your device.",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point: every expected failure is one line on stderr and an exit code, never a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    if os.environ.get("NO_COLOR"):  # rich alone would keep bold and dim
        from typer import rich_utils

        rich_utils.COLOR_SYSTEM = None
    with _failures(), log_to_stderr():
        code = app(prog_name="autotune", standalone_mode=False)
    sys.exit(code if isinstance(code, int) else 0)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"autotune {version('draft-autotune')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Options of the command itself."""
    set_loudness(verbose, quiet)


def doctor(as_json: AsJson = False) -> None:
    """Examine backends, devices, versions, conflicts and the cache."""
    from dataclasses import asdict

    from autotune.doctor import describe, examine

    diagnosis = examine()
    if as_json:
        print_json(asdict(diagnosis))
    else:
        typer.echo(describe(diagnosis))


def _add(heading: str, command: Callable[..., None], examples: Iterable[str]) -> None:
    """Add a command under a heading of the help."""
    app.command(rich_help_panel=heading, epilog=epilog(examples))(loud(command))


_add(SEARCH, cli_run.run, cli_run.EXAMPLES)
_add(SEARCH, cli_init.init, cli_init.EXAMPLES)
_add(RUNS, cli_runs.report, cli_runs.REPORT_EXAMPLES)
_add(RUNS, cli_runs.explain, cli_runs.EXPLAIN_EXAMPLES)
_add(RUNS, cli_runs.compare, cli_runs.COMPARE_EXAMPLES)
_add(RUNS, cli_runs.watch, cli_runs.WATCH_EXAMPLES)
_add(ARTIFACTS, cli_artifact.generate, cli_artifact.GENERATE_EXAMPLES)
_add(ARTIFACTS, cli_serve.serve, cli_serve.EXAMPLES)
_add(ARTIFACTS, cli_artifact.bench, cli_artifact.BENCH_EXAMPLES)
_add(ARTIFACTS, cli_artifact.verify, cli_artifact.VERIFY_EXAMPLES)
app.add_typer(cli_targets.app, name="targets", rich_help_panel=TARGETS)
_add(TARGETS, cli_traces.traces, cli_traces.EXAMPLES)
_add(MACHINE, doctor, ("autotune doctor", "autotune doctor --json"))
app.add_typer(cli_db.app, name="db", rich_help_panel=MACHINE)
_add(MACHINE, cli_paper.paper, cli_paper.EXAMPLES)


@contextmanager
def _failures() -> Iterator[None]:
    """Turn expected failures into one line and an exit code."""
    try:
        yield
    except Interrupted as error:
        _fail(str(error), EXIT_INTERRUPTED)
    except MissingEvidence as error:
        _fail(str(error), EXIT_MISSING_EVIDENCE)
    except typer.TyperException as error:
        message = usage_message(error)
        if not message:  # the help was printed, as no command was given
            sys.exit(EXIT_BAD_REQUEST)
        _fail(message, EXIT_BAD_REQUEST)
    except AutotuneError as error:
        _fail(str(error), EXIT_BAD_REQUEST)
    except KeyboardInterrupt:
        _fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        _fail(f"{error.filename or 'disk'}: {error.strerror}", EXIT_BAD_REQUEST)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt
