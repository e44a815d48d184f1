"""The `autotune db` commands: parse, call, print."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli_completion import BACKENDS, KINDS, among
from autotune.cli_json import AsJson, print_json
from autotune.cli_loudness import loud
from autotune.cli_options import duration_option, epilog
from autotune.cli_units import bytes_text
from autotune.errors import unknown_name

if TYPE_CHECKING:
    from autotune.database.upkeep import Listed

app = typer.Typer(
    help="Look after the tuning database: what earlier runs measured and later ones need not.",
    no_args_is_help=True,
)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")]


@app.command("list", epilog=epilog(("autotune db list", "autotune db list --kind burst --backend tvm --json")))
@loud
def list_(
    kind: Annotated[
        str | None, typer.Option(help="burst, target, slices or acceptance.", autocompletion=among(KINDS))
    ] = None,
    backend: Annotated[str | None, typer.Option(help="Only this backend's.", autocompletion=among(BACKENDS))] = None,
    shape: Annotated[str | None, typer.Option(help="Only shapes with this in their name, e.g. 4L-2H.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the entries, and which of them this machine and these versions can use."""
    from autotune.database.file import DatabaseFile
    from autotune.database.upkeep import Filter, list_entries

    if kind is not None and kind not in KINDS:
        raise unknown_name("kind of entry", kind, KINDS)
    file = DatabaseFile()
    listed = list_entries(file, Filter(kind, backend, shape))
    if as_json:
        print_json([entry.fields() for entry in listed])
        return
    if listed:
        _print_table(listed)
    fit = sum(entry.fits for entry in listed)
    size = sum(entry.row.bytes for entry in listed)
    typer.echo(f"{file.path}: {len(listed)} entries, {fit} of them usable here, {bytes_text(size)}")


@app.command("export", epilog=epilog(("autotune db export measured.jsonl.gz",)))
@loud
def export(out: Annotated[Path, typer.Argument(help="File to write; .gz compresses it.", show_default=False)]) -> None:
    """Write all entries to a file that another machine can import."""
    from autotune.database.file import DatabaseFile
    from autotune.database.transfer import export_entries

    typer.echo(f"{out}: {export_entries(DatabaseFile(), out)} entries")


@app.command("import", epilog=epilog(("autotune db import measured.jsonl.gz",)))
@loud
def import_(source: Annotated[Path, typer.Argument(help="File of `autotune db export`.", show_default=False)]) -> None:
    """Add the entries of a file; those that are known already are kept as they are."""
    from autotune.database.file import DatabaseFile
    from autotune.database.transfer import import_entries

    read, added = import_entries(DatabaseFile(), source)
    typer.echo(f"{source}: {added} of {read} entries added, {read - added} were known already")


@app.command(
    "prune", epilog=epilog(("autotune db prune --older-than 30d --dry-run", "autotune db prune --other-versions"))
)
@loud
def prune_(
    older_than: Annotated[float | None, duration_option("Remove entries older than this, e.g. 30d.")] = None,
    other_versions: Annotated[bool, typer.Option("--other-versions", help="Remove those of other versions.")] = False,
    other_devices: Annotated[bool, typer.Option("--other-devices", help="Remove those of other devices.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Remove all entries.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove entries; those that any of the given options applies to."""
    from dataclasses import asdict

    from autotune.database.file import DatabaseFile
    from autotune.database.upkeep import PruneRequest, prune

    request = PruneRequest(older_than, other_versions, other_devices, everything, dry_run)
    done = prune(DatabaseFile(), request)
    if as_json:
        print_json({**asdict(done), "dry_run": dry_run})
        return
    verb = "would remove" if dry_run else "removed"
    typer.echo(f"{verb} {done.removed} entries ({bytes_text(done.bytes)}); {done.kept} are kept")


def _print_table(listed: "list[Listed]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from autotune.log_lines import colours

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("kind", "shape", "precision", "backend", "measured", "KiB"):
        table.add_column(name, justify="right" if name == "KiB" else "left", no_wrap=True)
    table.add_column("usable here", overflow="fold")
    for entry in listed:
        row = entry.row
        words = (row.kind, row.shape, row.precision, row.backend or "", row.created[:10], f"{row.bytes / 1024:,.0f}")
        table.add_row(*map(Text, words), Text(_usable(entry)))
    Console(highlight=False, color_system=colours()).print(table)


def _usable(entry: "Listed") -> str:
    reasons = []
    if entry.device_differs:
        reasons.append(f"device {entry.device_differs}")
    if entry.versions_differ:
        reasons.append(f"versions {entry.versions_differ}")
    return f"no: {'; '.join(reasons)}" if reasons else "yes"
