"""The `autotune traces` command: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli_completion import RUNNERS, among
from autotune.cli_json import AsJson, print_json
from autotune.cli_options import ApiKey, Model, Prompts, Target
from autotune.errors import BadRequest

EXAMPLES = (
    "autotune traces --target demo --out traces.safetensors",
    "autotune traces --target /models/big --endpoint http://host:8000/v1 --out served.safetensors",
)


def traces(
    out: Annotated[Path, typer.Option(help="File to write (safetensors).")],
    target: Target = None,
    prompts: Prompts = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest continuation.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="0 is off.")] = 0,
    top_p: Annotated[float, typer.Option(help="1 is off.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the target.")] = 1,
    endpoint: Annotated[
        str | None,
        typer.Option(help="URL of an OpenAI-compatible server of the target, as in http://localhost:8000/v1."),
    ] = None,
    model: Model = None,
    api_key: ApiKey = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests to the server at once.")] = 8,
    runner: Annotated[
        str | None,
        typer.Option(
            "--with",
            help="What runs a local target: autotune's compiled program, or transformers (sharded over GPUs, or "
            "offloaded, where it does not fit); default: autotune, if it fits into memory.",
            autocompletion=among(RUNNERS),
        ),
    ] = None,
    no_alternatives: Annotated[
        bool,
        typer.Option(
            "--no-alternatives",
            help="Leave out the target's likeliest tokens at each position, from which drafts are distilled: the file "
            "is many times smaller, but cannot be completed later.",
        ),
    ] = False,
    download: Annotated[
        bool,
        typer.Option(
            "--download", help="Fetch the target from the hub if it is missing; of a served one, its tokenizer."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Record the target's own continuations of a prompts file: of a local target, or of one that a server runs."""
    from autotune.endpoint.client import find_endpoint
    from autotune.sampling import SamplingSettings
    from autotune.targets import fetch_models, resolve_target
    from autotune.terminal import TerminalObserver
    from autotune.trace_recording import TraceRequest, record_here, record_remote, served_model

    if endpoint is None and (model or api_key):
        raise BadRequest("--model and --api-key are those of an --endpoint")
    if endpoint is not None and runner is not None:
        raise BadRequest("--endpoint and --with exclude each other: a served target is run by its server")
    request = TraceRequest(
        prompts=prompts or "builtin",
        settings=SamplingSettings(temperature, top_k, top_p),
        max_new_tokens=max_new_tokens,
        seed=seed,
        out=out,
        threads=threads,
        concurrency=concurrency,
        runner=runner,
        alternatives=not no_alternatives,
    )
    with TerminalObserver() as observer:
        if endpoint is not None:
            served = find_endpoint(endpoint, model, api_key)
            known = served_model(target or "demo", served, download, observer)
            observer.phase(f"Recording traces of {served}")
            recorded = record_remote(served, known, request, observer)
        else:
            if download:
                fetch_models((target,), observer)
            observer.phase("Recording traces")
            recorded = record_here(resolve_target(target or "demo"), request, observer)
    if as_json:
        counts = {"traces": len(recorded.items), "tokens": recorded.tokens, "looping_share": recorded.looping_share}
        print_json({"out": out, **counts})
        return
    typer.echo(f"{out}: {len(recorded.items)} traces, {recorded.tokens} tokens, {recorded.looping_share:.0%} looping")
