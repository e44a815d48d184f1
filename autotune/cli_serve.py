"""`autotune serve`: the shipped pair behind an OpenAI-compatible server."""

from typing import Annotated

import typer

from autotune.cli_loudness import tell
from autotune.cli_options import Artifact, Target, duration_option, size_option

EXAMPLES = (
    "autotune serve my-run/artifact",
    "autotune serve my-run/artifact --host 0.0.0.0 --port 8080 --max-body 1MiB",
)


def serve(
    artifact: Artifact,
    target: Target = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="AUTOTUNE_SERVER_API_KEY", show_envvar=True, help="Key that clients must send."),
    ] = None,
    max_concurrent: Annotated[int, typer.Option(min=1, max=1024, help="Requests decoded in turn.")] = 8,
    max_queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more are refused (429).")] = 64,
    max_body: Annotated[int, size_option("Longest body of a request, e.g. 4MiB.")] = 4 << 20,
    shutdown_timeout: Annotated[
        float, duration_option("Time for replies under way when it is stopped, e.g. 30s.")
    ] = 30.0,
    model_name: Annotated[str | None, typer.Option(help="Model id; default: the target's.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; default: the artifact's.")] = None,
) -> None:
    """Serve a shipped pair: OpenAI's completions and chat completions, metrics, and a playground page."""
    from autotune.server.serving import ServeRequest
    from autotune.server.serving import serve as serve_pair

    request = ServeRequest(
        artifact=artifact,
        target=target,
        host=host,
        port=port,
        api_key=api_key,
        slots=max_concurrent,
        queue=max_queue,
        shutdown_s=shutdown_timeout,
        threads=threads,
        model=model_name,
        body_bytes=max_body,
    )
    serve_pair(request, lambda url: tell(f"serving {artifact} at {url} (Ctrl-C stops)"))
