"""The commands that read runs, `report`, `explain`, `compare` and `watch`: parse, call, print."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli_json import AsJson, print_json
from autotune.cli_options import count_option, duration_option, size_option
from autotune.errors import BadRequest

if TYPE_CHECKING:
    from autotune.reports.compared import Comparison
    from autotune.reports.facts import RunFacts

Run = Annotated[Path, typer.Argument(help="Folder of a run (its --out).", show_default=False)]

REPORT_EXAMPLES = (
    "autotune report my-run",
    "autotune report my-run --max-memory 1MiB --lookahead 1:4",
    "autotune report my-run --json",
)
EXPLAIN_EXAMPLES = ("autotune explain my-run",)
COMPARE_EXAMPLES = (
    "autotune compare my-run other-run",
    "autotune compare laptop server --out fronts.html",
)
WATCH_EXAMPLES = ("autotune watch my-run", "autotune watch my-run --once")

_RESELECTED = "reselected"


def report(
    run: Run,
    max_memory: Annotated[int | None, size_option("Most memory for draft, cache and logits, e.g. 2GiB.")] = None,
    max_parameters: Annotated[int | None, count_option("Most parameters of a draft, e.g. 2M.")] = None,
    max_latency: Annotated[float | None, duration_option("Longest round, e.g. 20ms.")] = None,
    lookahead: Annotated[
        str | None, typer.Option(help="Lookaheads that may be used, e.g. 1:4.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write; default: the run's report/, or its reselected/ under limits.", show_default=False
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print summary.json; write the folder only if --out names one.")
    ] = False,
) -> None:
    """Write a run's report anew, under other limits if any are given; nothing is measured again."""
    from autotune.reselect import Limits, reselect
    from autotune.saved_run import read_run
    from autotune.search_space.axes import parse_axis

    lookaheads = None if lookahead is None else parse_axis("lookahead", lookahead, smallest=0).values
    limits = Limits(max_memory, max_parameters, max_latency, lookaheads)
    facts = read_run(run)
    if limits.any:
        facts = reselect(facts, limits)
    if not as_json or out is not None:
        folder = out or run / (_RESELECTED if limits.any else "report")
        _write_report(facts, folder)
    from autotune.reports.summarise import summarise

    summary = summarise(facts)
    if as_json:
        typer.echo(summary.to_json(), nl=False)
    else:
        typer.echo(f"{summary.sentence}\nreport: {folder}")


def explain(run: Run, as_json: AsJson = False) -> None:
    """Say in words why the winner wins, or nothing does, and what would change that."""
    from autotune.reports.explained import explain as statements
    from autotune.saved_run import read_run

    told = statements(read_run(run))
    if as_json:
        print_json([asdict(each) for each in told])
    else:
        typer.echo("\n\n".join(each.text for each in told))


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of two runs or more; the first is the yardstick.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write, with the runs' fronts over each other: .html, .svg or .png.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hold runs beside each other: what each came to, and which differences are more than noise."""
    from autotune.reports.compared import compare as compared
    from autotune.saved_run import read_run

    if len(runs) < 2:
        raise BadRequest("compare needs two runs or more: autotune compare RUN RUN …")
    if out is not None:
        from autotune.reports.compared_page import check_name

        check_name(out)
    facts = dict(zip(_names(runs), map(read_run, runs), strict=True))
    comparison = compared(facts)
    if out is not None:
        from autotune.reports.compared_page import write_comparison

        write_comparison(comparison, facts, out)
    if as_json:
        print_json(comparison.to_dict())
    else:
        _print_comparison(comparison)
        if out is not None:
            typer.echo(f"{out}: the fronts over each other")


def watch(
    run: Run,
    every: Annotated[float, duration_option("How often the folder is read, e.g. 1s.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show where it stands, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print where it stands as JSON, and end.")] = False,
) -> None:
    """Watch a run that is under way, from any terminal; ends when it ends."""
    from rich.console import Console

    from autotune.watch import take_snapshot, view
    from autotune.watch import watch as watching

    if not every > 0:
        raise BadRequest("--every 0: must be more than nothing, such as 1s")
    console = Console(highlight=False)
    if as_json:
        print_json(take_snapshot(run).to_dict())
    elif once:
        console.print(view(take_snapshot(run)))
    else:
        watching(run, console, every)


def _write_report(facts: "RunFacts", folder: Path) -> None:
    from autotune.reports.report import SUMMARY_FILE, write_report

    if folder.exists() and not (folder / SUMMARY_FILE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadRequest(f"{folder} is there and is no report: choose another --out")
    try:
        write_report(facts, folder)
    except OSError as error:
        raise BadRequest(f"cannot write {folder}: {error.strerror or error}; choose another --out") from None


def _names(runs: list[Path]) -> list[str]:
    """The runs' folder names; whole paths where two would be the same."""
    names = [run.resolve().name for run in runs]
    if len(set(names)) == len(names):
        return names
    paths = [str(run) for run in runs]
    if len(set(paths)) < len(paths):
        raise BadRequest("compare was given the same run twice")
    return paths


def _print_comparison(comparison: "Comparison") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for row in comparison.runs:
        console.print(f"{row.name}: {row.sentence}", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("run", "figure", "ratio", "interval", "evidence", ""):
        table.add_column(heading, justify="right" if heading in ("ratio", "interval") else "left")
    for each in comparison.differences:
        interval = "–" if each.low is None or each.high is None else f"{each.low:.3f} … {each.high:.3f}"
        verdict = "differs" if each.beyond_noise else "within noise"
        table.add_row(each.run, each.what, f"{each.ratio:.3f}", interval, each.evidence, verdict)
    console.print()
    console.print(f"Against {comparison.runs[0].name}:", markup=False)
    console.print(table)
    for caution in comparison.cautions:
        console.print(caution, markup=False, soft_wrap=True)
