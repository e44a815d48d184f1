"""The `autotune` command: parse, call, print.  Results go to stdout, progress and errors to stderr."""

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from autotune.cli_db import app as db_app
from autotune.cli_options import ApiKey, Artifact, Model, Prompts, Target
from autotune.cli_paper import paper
from autotune.cli_runs import compare, explain, report, watch
from autotune.cli_serve import serve
from autotune.cli_targets import app as targets_app
from autotune.cli_traces import traces
from autotune.cli_training import ElasticBudget, Finish, Loss, Proxy, RecoverTokens, TrainDevice, TrainProcesses
from autotune.errors import AutotuneError, BadRequest, Interrupted, MissingEvidence

if TYPE_CHECKING:
    from autotune.run import TuneResult

EXIT_BAD_REQUEST = 2
EXIT_NOTHING_FEASIBLE = 3
EXIT_MISSING_EVIDENCE = 3
EXIT_INTERRUPTED = 130

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}

app = typer.Typer(
    help="Find, compile and ship the draft model that makes your target LLM fastest on your device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(db_app, name="db")
app.add_typer(targets_app, name="targets")


def main() -> None:
    """Entry point: every expected failure is one line on stderr and an exit code, never a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    with _failures():
        app()


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"autotune {version('draft-autotune')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the command itself."""


@app.command()
def run(
    target: Target = None,
    source: Annotated[str | None, typer.Option(help="Checkpoint drafts are cut from; default: the target.")] = None,
    download: Annotated[
        bool | None, typer.Option("--download", help="Fetch what is missing of target and source from the hub.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="Batch sizes to schedule the lookahead for, e.g. 1,4,16; default: 1.")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            help="Positions of every cache, at the end of which latencies are measured; default: caches of the models' "
            "context (4096 at most), latencies behind 128 tokens."
        ),
    ] = None,
    strict: Annotated[
        bool | None,
        typer.Option(
            "--strict", help="Refuse (exit code 3) what would rest on a stand-in, an extrapolation, or no decoding."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; default: autotune-run.")] = None,
    trials: Annotated[
        int | None, typer.Option(help="Most builds to evaluate, by compiling or screening; default: 64.")
    ] = None,
    time_budget: Annotated[str | None, typer.Option(help="Search time, e.g. 10m; whichever ends first.")] = None,
    screen: Annotated[
        bool | None,
        typer.Option(
            "--screen/--no-screen",
            help="Do not compile builds that would not move the Pareto front even at the optimistic end of the latency "
            "predicted from those measured; each still counts as one of --trials. Default: --screen.",
        ),
    ] = None,
    refine: Annotated[
        bool | None,
        typer.Option(
            "--refine/--no-refine",
            help="Score builds on a quarter of the estimation traces while searching, and on half and all of them "
            "afterwards only those that stand on the front or may be finalists. Default: --refine.",
        ),
    ] = None,
    model_free: Annotated[
        bool | None,
        typer.Option(
            "--model-free/--no-model-free",
            help="Let drafters without a model (prompt lookup, a suffix automaton) take part; if one is as fast as the "
            "best draft, it ships instead. Default: --model-free.",
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="Who proposes the next build: tpe, nsga2, gp (needs SciPy), random, or auto, the best by measurement; "
            "default: auto."
        ),
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Layers: low:high[:step] or a,b,c.")] = None,
    heads: Annotated[str | None, typer.Option(help="Attention heads.")] = None,
    kv_heads: Annotated[str | None, typer.Option(help="Key/value heads.")] = None,
    ffn: Annotated[str | None, typer.Option(help="FFN size.")] = None,
    hidden: Annotated[str | None, typer.Option(help="Hidden size; default: the source's.")] = None,
    draft_vocab: Annotated[
        str | None,
        typer.Option(
            help="Tokens a draft can propose, the most frequent ones: full, sizes, or both, e.g. full,8192; default: "
            "full, and a quarter of a vocabulary of 32,000 or more."
        ),
    ] = None,
    lookahead: Annotated[str | None, typer.Option(help="Lookahead k; default: 0:8.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Drafts: fp32, int8, int4 (cuda: fp16, bf16 …), with commas; default: fp32,int8; on cuda fp16."
        ),
    ] = None,
    target_precision: Annotated[
        str | None,
        typer.Option(
            help="Target: fp32, or int8 or int4 (tvm, weights only); on cuda fp16, bf16; default: fp32, fp16."
        ),
    ] = None,
    target_tp: Annotated[
        int | None, typer.Option(help="Devices the target is split over (tensor parallel); default: 1.")
    ] = None,
    collective_latency: Annotated[
        str | None,
        typer.Option(help="One all-reduce among them, e.g. 20us; measured where there are as many GPUs."),
    ] = None,
    target_latency: Annotated[
        Path | None,
        typer.Option(help='The target\'s latencies as you measured them: JSON {"verify_s": {"1": 0.041, …}} or CSV.'),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="Compilers of the drafts: onnxruntime, tvm or both; default: both, where they can be used."),
    ] = None,
    target_backend: Annotated[
        str | None,
        typer.Option(help="Compiler of the target; default: the one of --backend whose program verifies fastest."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: cpu.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Workload's temperature; 0 is greedy.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Workload's top-k; 0 is off.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Workload's top-p; 1 is off.")] = None,
    prompts: Prompts = None,
    traces: Annotated[
        str | None,
        typer.Option(
            help="Recorded traces (see `autotune traces`), or the URL of an OpenAI-compatible server of the "
            "target that is to record them."
        ),
    ] = None,
    model: Model = None,
    api_key: ApiKey = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest continuation; default: 64.")] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="What is maximised over the workload's categories: mean (of all text, default), worst (the smallest "
            "speed-up of any category) or weighted."
        ),
    ] = None,
    category_weights: Annotated[
        str | None,
        typer.Option(help="Categories' shares of your tokens, for --objective weighted, e.g. code=2,chat=1."),
    ] = None,
    max_memory: Annotated[str | None, typer.Option(help="Most memory for draft, cache and logits, e.g. 2GiB.")] = None,
    max_parameters: Annotated[str | None, typer.Option(help="Most parameters of a draft, e.g. 2M or 1.3B.")] = None,
    max_latency: Annotated[str | None, typer.Option(help="Longest round, e.g. 20ms.")] = None,
    proxy: Proxy = None,
    elastic_budget: ElasticBudget = None,
    recover_tokens: RecoverTokens = None,
    finish: Finish = None,
    loss: Loss = None,
    validate: Annotated[int | None, typer.Option(help="Finalists that really decode; default: 3.")] = None,
    tune_kernels: Annotated[
        str | None, typer.Option(help="Tune a TVM winner's kernels for up to this long, e.g. 5m; default: 0, off.")
    ] = None,
    adaptive_k: Annotated[
        bool | None,
        typer.Option(
            "--adaptive-k/--no-adaptive-k",
            help="Also try to choose the winner's k round by round, by its own confidence: the gain is estimated from "
            "traces and, if it may be 1% or more, decoded against the fixed k; it ships only if faster beyond the "
            "noise. Default: --no-adaptive-k, as it gains a few percent at most (benchmarks.adaptive) and takes time.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random; default: 0.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; default: chosen by measurement.")] = None,
    train_device: TrainDevice = None,
    train_processes: TrainProcesses = None,
    build_timeout: Annotated[str | None, typer.Option(help="Limit of one build; default: 2m.")] = None,
    run_timeout: Annotated[str | None, typer.Option(help="Limit of one measurement; default: 1m.")] = None,
    worker_memory: Annotated[str | None, typer.Option(help="Memory limit of one build or measurement.")] = None,
    database: Annotated[
        bool | None,
        typer.Option("--database/--no-database", help="Use, and add to, what earlier runs measured; default: yes."),
    ] = None,
    resume: Annotated[bool | None, typer.Option("--resume", help="Continue the run in --out.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the same keys; flags win.")] = None,
) -> None:
    """Search the draft architecture and lookahead, validate the best, ship the winner, report."""
    flags = {name: value for name, value in locals().items() if name != "config"}
    from autotune.config import make_config
    from autotune.run import tune
    from autotune.targets import fetch_models
    from autotune.terminal import TerminalObserver

    request = make_config(flags, config)
    with TerminalObserver() as observer:
        if request.download:
            fetch_models((request.target, request.source), observer)
        result = tune(request, observer)
    _print_result(result)
    if not result.feasible:
        raise typer.Exit(EXIT_NOTHING_FEASIBLE)


app.command()(traces)
for _reading in (report, explain, compare, watch):
    app.command()(_reading)


@app.command()
def generate(
    artifact: Artifact,
    prompt: Annotated[str | None, typer.Option(help="Text to continue; '-' reads stdin.")] = None,
    target: Target = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Continue all prompts of a file (.jsonl or text) instead; writes JSON lines.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=2, help="Prompts of --prompts decoded at once, by ONNX Runtime; default: the schedule's."),
    ] = None,
    lookahead: Annotated[
        int | None, typer.Option(min=0, help="k of a batch; default: the schedule's for the sequences at work.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the JSON lines of --prompts; default: stdout.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest continuation.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="0 is off.")] = 0,
    top_p: Annotated[float, typer.Option(help="1 is off.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="Stop string; may be repeated.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; default: the artifact's.")] = None,
    adaptive_k: Annotated[
        bool | None,
        typer.Option(
            "--adaptive-k/--no-adaptive-k",
            help="Choose k round by round, or not; default: if the artifact's run found it faster.",
        ),
    ] = None,
) -> None:
    """Generate text with the shipped pair; the statistics go to stderr."""
    from autotune.pair import Options, Pair

    if (prompt is None) == (prompts is None):
        raise BadRequest("give either --prompt TEXT or --prompts FILE")
    if prompts is None and (batch or lookahead is not None or out):
        raise BadRequest("--batch, --lookahead and --out are for several prompts: give --prompts FILE")
    options: Options = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "stop": stop or (),
    }
    if prompts is not None:
        from autotune.generate_file import generate_file

        _check_out(out)
        typer.echo(
            generate_file(
                lambda: Pair.open(artifact, target, threads=threads),
                prompts,
                out,
                max_new_tokens,
                batch,
                lookahead,
                options,
            ),
            err=True,
        )
        return
    text = _prompt_text(prompt or "")
    pair = Pair.open(artifact, target, threads=threads, adaptive=adaptive_k)
    for piece in pair.stream(text, max_new_tokens, **options):
        typer.echo(piece, nl=False)
    typer.echo()
    done = pair.statistics
    typer.echo(
        f"{done.tokens} tokens in {done.rounds} rounds ({done.tokens_per_round:.2f} tokens per round), "
        f"{done.tokens_per_s:.0f} tokens/s; rounds that emitted 1, 2, … tokens: {done.emitted}",
        err=True,
    )


@app.command()
def bench(
    artifact: Artifact,
    target: Target = None,
    prompts: Prompts = None,
    count: Annotated[int, typer.Option(min=1, help="Prompts to decode.")] = 32,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest continuation.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    repeats: Annotated[int, typer.Option(min=1, help="Times each prompt is decoded by both.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; default: the artifact's.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=2, help="Decode this many sequences at once, the target alone too.")
    ] = None,
    lookahead: Annotated[
        int | None, typer.Option(min=0, help="k of the batch; default: the schedule's for the sequences at work.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Measure the pair against the target alone, side by side (A B A B), as JSON."""
    from dataclasses import asdict

    from autotune.bench import BenchRequest, bench_artifact
    from autotune.sampling import SamplingSettings

    _check_out(out)
    sampling = SamplingSettings(temperature)
    request = BenchRequest(
        artifact, target, prompts or "builtin", count, max_new_tokens, sampling, seed, repeats, threads
    )
    if batch is not None:
        from autotune.batch_bench import bench_batch

        result = asdict(bench_batch(request, batch, lookahead))
    elif lookahead is not None:
        raise BadRequest("--lookahead is for a batch: give --batch")
    else:
        result = asdict(bench_artifact(request))
    text = json.dumps(result, indent=2)
    if out is not None:
        out.write_text(text + "\n")
    typer.echo(text)


@app.command()
def verify(
    artifact: Artifact,
    target: Target = None,
    prompts: Prompts = None,
    count: Annotated[int, typer.Option(min=1, help="Prompts to decode.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest continuation.")] = 64,
) -> None:
    """Check every file's checksum, and that greedy output equals the target's own."""
    from autotune.bench import BenchRequest, check_lossless

    request = BenchRequest(artifact, target, prompts or "builtin", count, max_new_tokens, repeats=1)
    compared, near_ties, mismatches = check_lossless(request)
    typer.echo(
        f"{artifact}: files intact; of {compared} greedy outputs: "
        f"{compared - near_ties - mismatches} identical, "
        f"{near_ties} differ at a near-tie of the target's logits, {mismatches} differ elsewhere"
    )
    if mismatches:
        raise typer.Exit(EXIT_BAD_REQUEST)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Examine backends, devices, versions, conflicts and the cache."""
    from autotune.doctor import describe, examine

    typer.echo(describe(examine(), as_json=as_json))


app.command()(paper)
app.command()(serve)


def _check_out(out: Path | None) -> None:
    """BadRequest unless a file can be written there."""
    if out is not None and not out.parent.is_dir():
        raise BadRequest(f"--out {out}: the folder {out.parent} does not exist")
    if out is not None and out.is_dir():
        raise BadRequest(f"--out {out} is a folder: name a file")


def _prompt_text(prompt: str) -> str:
    """The prompt as given, or all of stdin for `-`; BadRequest if it is not UTF-8."""
    try:
        if prompt == "-":
            return sys.stdin.buffer.read().decode("utf-8")
        prompt.encode("utf-8")  # bytes of an argument that are no text became surrogates
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise BadRequest(f"the prompt is not UTF-8: {error.reason} at {error.start}") from None
    return prompt


def _print_result(result: "TuneResult") -> None:
    for line in result.summary.banner:
        typer.echo(line)
    typer.echo(result.summary.sentence)
    typer.echo(f"report: {result.report / 'report.md'}")
    if result.artifact is not None:
        typer.echo(f"{'plan' if result.summary.kind == 'plan' else 'artifact'}: {result.artifact}")


@contextmanager
def _failures() -> Iterator[None]:
    """Turn expected failures into one line and an exit code."""
    try:
        yield
    except Interrupted as error:
        _fail(str(error), EXIT_INTERRUPTED)
    except MissingEvidence as error:
        _fail(str(error), EXIT_MISSING_EVIDENCE)
    except AutotuneError as error:
        _fail(str(error), EXIT_BAD_REQUEST)
    except KeyboardInterrupt:
        _fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        _fail(f"{error.filename or 'disk'}: {error.strerror}", EXIT_BAD_REQUEST)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt
