"""The `autotune run` command: parse, call, print."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli_completion import complete_setting
from autotune.cli_json import AsJson, print_json
from autotune.run_settings import SETTINGS, section_of

if TYPE_CHECKING:
    from autotune.run import TuneResult

EXIT_NOTHING_FEASIBLE = 3

EXAMPLES = (
    "autotune run --target demo",
    "autotune run --target /models/my-llama --out my-run --trials 100 --time-budget 1h",
    "autotune run --target /models/big --source /models/small --lookahead 0:6 --max-memory 2GiB --prompts mine.jsonl",
    "autotune run --target llama-65b --traces http://host:8000/v1 --target-latency table.json --out served",
    "autotune run --config tune.toml --resume",
)


def _setting(key: str, metavar: str | None = None) -> Any:
    """The option of a setting, with its meaning, its heading and what completes it."""
    return typer.Option(
        help=SETTINGS[key].help,
        metavar=metavar,
        rich_help_panel=section_of(key),
        autocompletion=complete_setting(key),
    )


def _switch(key: str) -> Any:
    """The option of a setting that is on or off."""
    name = key.replace("_", "-")
    return typer.Option(f"--{name}/--no-{name}", help=SETTINGS[key].help, rich_help_panel=section_of(key))


def run(
    target: Annotated[str | None, _setting("target")] = None,
    source: Annotated[str | None, _setting("source")] = None,
    download: Annotated[bool | None, _switch("download")] = None,
    device: Annotated[str | None, _setting("device")] = None,
    strict: Annotated[bool | None, _switch("strict")] = None,
    layers: Annotated[str | None, _setting("layers")] = None,
    heads: Annotated[str | None, _setting("heads")] = None,
    kv_heads: Annotated[str | None, _setting("kv_heads")] = None,
    ffn: Annotated[str | None, _setting("ffn")] = None,
    hidden: Annotated[str | None, _setting("hidden")] = None,
    draft_vocab: Annotated[str | None, _setting("draft_vocab")] = None,
    lookahead: Annotated[str | None, _setting("lookahead")] = None,
    precision: Annotated[str | None, _setting("precision")] = None,
    backend: Annotated[str | None, _setting("backend")] = None,
    model_free: Annotated[bool | None, _switch("model_free")] = None,
    adaptive_k: Annotated[bool | None, _switch("adaptive_k")] = None,
    trials: Annotated[int | None, _setting("trials")] = None,
    time_budget: Annotated[str | None, _setting("time_budget", "DURATION")] = None,
    sampler: Annotated[str | None, _setting("sampler")] = None,
    screen: Annotated[bool | None, _switch("screen")] = None,
    refine: Annotated[bool | None, _switch("refine")] = None,
    validate: Annotated[int | None, _setting("validate")] = None,
    seed: Annotated[int | None, _setting("seed")] = None,
    max_memory: Annotated[str | None, _setting("max_memory", "SIZE")] = None,
    max_parameters: Annotated[str | None, _setting("max_parameters", "COUNT")] = None,
    max_latency: Annotated[str | None, _setting("max_latency", "DURATION")] = None,
    prompts: Annotated[str | None, _setting("prompts")] = None,
    traces: Annotated[str | None, _setting("traces")] = None,
    model: Annotated[str | None, _setting("model")] = None,
    api_key: Annotated[str | None, _setting("api_key")] = None,
    max_new_tokens: Annotated[int | None, _setting("max_new_tokens")] = None,
    temperature: Annotated[float | None, _setting("temperature")] = None,
    top_k: Annotated[int | None, _setting("top_k")] = None,
    top_p: Annotated[float | None, _setting("top_p")] = None,
    batch: Annotated[str | None, _setting("batch")] = None,
    context: Annotated[int | None, _setting("context")] = None,
    objective: Annotated[str | None, _setting("objective")] = None,
    category_weights: Annotated[str | None, _setting("category_weights")] = None,
    target_precision: Annotated[str | None, _setting("target_precision")] = None,
    target_backend: Annotated[str | None, _setting("target_backend")] = None,
    target_tp: Annotated[int | None, _setting("target_tp")] = None,
    collective_latency: Annotated[str | None, _setting("collective_latency", "DURATION")] = None,
    target_latency: Annotated[Path | None, _setting("target_latency")] = None,
    proxy: Annotated[str | None, _setting("proxy")] = None,
    elastic_budget: Annotated[str | None, _setting("elastic_budget", "DURATION")] = None,
    recover_tokens: Annotated[str | None, _setting("recover_tokens", "COUNT")] = None,
    finish: Annotated[str | None, _setting("finish", "DURATION")] = None,
    loss: Annotated[str | None, _setting("loss")] = None,
    train_device: Annotated[str | None, _setting("train_device")] = None,
    train_processes: Annotated[int | None, _setting("train_processes")] = None,
    threads: Annotated[int | None, _setting("threads")] = None,
    tune_kernels: Annotated[str | None, _setting("tune_kernels", "DURATION")] = None,
    build_timeout: Annotated[str | None, _setting("build_timeout", "DURATION")] = None,
    run_timeout: Annotated[str | None, _setting("run_timeout", "DURATION")] = None,
    worker_memory: Annotated[str | None, _setting("worker_memory", "SIZE")] = None,
    database: Annotated[bool | None, _switch("database")] = None,
    out: Annotated[Path | None, _setting("out")] = None,
    resume: Annotated[bool | None, _switch("resume")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with the same keys (`autotune init` writes one); flags win.",
            rich_help_panel="What to tune",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search the draft architecture and lookahead, validate the best, ship the winner, report."""
    flags = {name: value for name, value in locals().items() if name not in ("config", "as_json")}
    from autotune.config import make_config
    from autotune.run import tune
    from autotune.targets import fetch_models
    from autotune.terminal import TerminalObserver

    request = make_config(flags, config)
    with TerminalObserver() as observer:
        if request.download:
            fetch_models((request.target, request.source), observer)
        result = tune(request, observer)
    if as_json:
        print_json(_fields(result))
    else:
        _print_result(result)
    if not result.feasible:
        raise typer.Exit(EXIT_NOTHING_FEASIBLE)


def _fields(result: "TuneResult") -> dict[str, Any]:
    """Where everything is, and the report's own summary."""
    return {
        "folder": result.folder,
        "report": result.report,
        "artifact": result.artifact,
        "feasible": result.feasible,
        "summary": json.loads(result.summary.to_json()),
    }


def _print_result(result: "TuneResult") -> None:
    for line in result.summary.banner:
        typer.echo(line)
    typer.echo(result.summary.sentence)
    typer.echo(f"report: {result.report / 'report.md'}")
    if result.artifact is not None:
        typer.echo(f"{'plan' if result.summary.kind == 'plan' else 'artifact'}: {result.artifact}")
