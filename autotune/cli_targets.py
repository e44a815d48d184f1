"""The `autotune targets` commands: parse, call, print."""

from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli_completion import complete_shown
from autotune.cli_json import AsJson, print_json
from autotune.cli_loudness import loud
from autotune.cli_options import epilog

if TYPE_CHECKING:
    from autotune.target_listing import Details, DraftDetails, Listed

app = typer.Typer(
    help="The models known by name: list them, or show one of them.",
    invoke_without_command=True,
)


@app.callback(epilog=epilog(("autotune targets", "autotune targets show llama-65b --json")))
@loud
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List the models known by name; `show NAME` tells all about one."""
    if context.invoked_subcommand is not None:
        return
    from autotune.target_listing import list_models, named_drafts

    listed, drafts = list_models(), named_drafts()
    if as_json:
        document = {"models": [model.fields() for model in listed], "drafts": [draft.fields() for draft in drafts]}
        print_json(document)
        return
    _print_table(listed)
    typer.echo()
    _print_table(drafts)
    typer.echo(
        "\nAny folder with a checkpoint in safetensors and its tokenizer is a target too, and any repository of "
        "the hub as owner/name."
    )


@app.command("show", epilog=epilog(("autotune targets show llama-65b",)))
@loud
def show(
    name: Annotated[
        str,
        typer.Argument(
            help="A name of the list, a folder, or owner/name.", show_default=False, autocompletion=complete_shown
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Show a model: architecture, memory, licence, where its weights were looked for, and how to get and run it."""
    from autotune.target_listing import describe_draft, describe_model, is_draft

    details = describe_draft(name) if is_draft(name) else describe_model(name)
    if as_json:
        print_json(details.fields())
    else:
        _print_details(details)


def _print_table(listed: "list[Listed]") -> None:
    rows = [entry.row() for entry in listed]
    widths = [max(map(len, column)) for column in zip(*(row.values() for row in rows), rows[0], strict=True)]
    for cells in (list(rows[0]), *(list(row.values()) for row in rows)):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def _print_details(details: "Details | DraftDetails") -> None:
    lines = details.lines()
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        typer.echo(f"{label:<{width}}  {text}")
