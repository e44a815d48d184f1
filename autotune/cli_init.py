"""The `autotune init` command: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = (
    "autotune init",
    "autotune init big-model.toml",
    "autotune init --schema",
)


def init(
    file: Annotated[Path, typer.Argument(help="File to write.")] = Path("tune.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Write no file, but print the JSON Schema of such files.")
    ] = False,
) -> None:
    """Write a configuration file in which every setting of a run is explained, at its default, commented out."""
    from autotune.config_file import schema_text, write_template

    if schema:
        typer.echo(schema_text(), nl=False)
        return
    write_template(file, replace=force)
    typer.echo(f"{file}: every setting, commented out; `autotune run --config {file}` reads it")
