"""`--json`: one JSON document on stdout and nothing else there; progress and errors stay on stderr."""

import json
from typing import Annotated, Any

import typer

AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document, and nothing else, on stdout.", rich_help_panel="Output"),
]


def print_json(document: Any) -> None:
    """Print a document; what JSON does not know, such as a path, is written as its text."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str))
