"""The `autotune paper` command: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli_completion import BACKENDS, DEVICES, PRECISIONS, among
from autotune.cli_options import duration_option
from autotune.errors import unknown_name

EXAMPLES = ("autotune paper --out paper", "autotune paper --only a,c --shrink 16 --out quick")


def paper(
    out: Annotated[Path, typer.Option(help="Folder for the page; an earlier page there is replaced.")] = Path("paper"),
    device: Annotated[str, typer.Option(help="cpu or cuda.", autocompletion=among(DEVICES))] = "cpu",
    backend: Annotated[str, typer.Option(help="onnxruntime or tvm.", autocompletion=among(BACKENDS))] = "onnxruntime",
    precision: Annotated[
        str | None, typer.Option(help="Drafts; default: int8, on cuda fp16.", autocompletion=among(PRECISIONS))
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every program.")] = 1,
    context: Annotated[int, typer.Option(min=1, help="Positions in the cache when a step is timed.")] = 128,
    only: Annotated[str, typer.Option(help="Experiments, a … g, with commas.")] = "a,b,c,d,e,f,g",
    rounds: Annotated[int, typer.Option(min=1, help="Times that all drafts are timed in turn.")] = 3,
    shrink: Annotated[int, typer.Option(min=1, help="Divide every width, to try the command out.")] = 1,
    target_latency: Annotated[
        Path | None, typer.Option(help="LLaMA-65B's latencies as you measured them; default: from slices of it here.")
    ] = None,
    elastic_budget: Annotated[float, duration_option("Training of the demo family, e.g. 2m.")] = 120.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the demo family's training.")] = 0,
) -> None:
    """Run the experiments of "Decoding Speculative Decoding" here, and write one page beside the paper's figures."""
    from autotune.candidate import Precision
    from autotune.compile.base import load_backend
    from autotune.compile.sandbox import Limits
    from autotune.devices import find_device
    from autotune.memory import worker_bytes
    from autotune.paper.reproduce import PaperSettings, reproduce, usual_precision
    from autotune.paper.timing import Timing
    from autotune.reports.experiment_page import HTML_FILE
    from autotune.results import MeasureSettings
    from autotune.terminal import TerminalObserver

    found = find_device(device)
    load_backend(backend, device)
    if precision is not None and precision not in list(Precision):
        raise unknown_name("precision", precision, Precision)
    timing = Timing(
        device=device,
        backend=backend,
        precision=Precision(precision) if precision else usual_precision(found),
        measuring=MeasureSettings(context_tokens=context, threads=threads),
        limits=Limits(time_s=300.0, memory_bytes=worker_bytes()),
        rounds=rounds,
    )
    settings = PaperSettings(
        timing=timing,
        out=out,
        experiments=tuple(only.replace(" ", "").split(",")),
        shrink=shrink,
        target_precision=Precision.FP32 if found.kind == "cpu" else Precision.FP16,
        target_latency=target_latency,
        elastic_budget_s=elastic_budget,
        seed=seed,
    )
    with TerminalObserver() as observer:
        page = reproduce(settings, observer)
    for experiment in page.experiments:
        typer.echo(f"({experiment.key}) {experiment.finding}")
    typer.echo(f"page: {out / HTML_FILE}")
