"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Target = Annotated[
    str | None,
    typer.Option(help="Target: 'demo', a name of `autotune targets`, a checkpoint's folder, or owner/name on the hub."),
]
Prompts = Annotated[str | None, typer.Option(help="Prompts file (.jsonl or text, one a line), or 'builtin'.")]
Model = Annotated[str | None, typer.Option(help="The target's name at its server; default: the only one there.")]
ApiKey = Annotated[str | None, typer.Option(help="The server's key; better: $AUTOTUNE_API_KEY or $OPENAI_API_KEY.")]
Artifact = Annotated[Path, typer.Argument(help="Artifact folder.", show_default=False)]
