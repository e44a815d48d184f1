"""The commands of a shipped pair, `autotune generate`, `bench` and `verify`: parse, call, print."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli_json import AsJson, print_json
from autotune.cli_loudness import tell
from autotune.cli_options import Artifact, Prompts, Target
from autotune.errors import BadRequest

EXIT_NOT_LOSSLESS = 2

GENERATE_EXAMPLES = (
    'autotune generate my-run/artifact --prompt "def main():"',
    "autotune generate my-run/artifact --prompts mine.jsonl --batch 4 --out done.jsonl",
)
BENCH_EXAMPLES = ("autotune bench my-run/artifact", "autotune bench my-run/artifact --batch 4 --out bench.json")
VERIFY_EXAMPLES = ("autotune verify my-run/artifact", "autotune verify my-run/artifact --count 64 --json")


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
        tell(
            generate_file(
                lambda: Pair.open(artifact, target, threads=threads),
                prompts,
                out,
                max_new_tokens,
                batch,
                lookahead,
                options,
            )
        )
        return
    text = _prompt_text(prompt or "")
    pair = Pair.open(artifact, target, threads=threads, adaptive=adaptive_k)
    for piece in pair.stream(text, max_new_tokens, **options):
        typer.echo(piece, nl=False)
    typer.echo()
    done = pair.statistics
    tell(
        f"{done.tokens} tokens in {done.rounds} rounds ({done.tokens_per_round:.2f} tokens per round), "
        f"{done.tokens_per_s:.0f} tokens/s; rounds that emitted 1, 2, … tokens: {done.emitted}"
    )


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


def verify(
    artifact: Artifact,
    target: Target = None,
    prompts: Prompts = None,
    count: Annotated[int, typer.Option(min=1, help="Prompts to decode.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest continuation.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Check every file's checksum, and that greedy output equals the target's own."""
    from autotune.bench import BenchRequest, check_lossless

    request = BenchRequest(artifact, target, prompts or "builtin", count, max_new_tokens, repeats=1)
    compared, near_ties, mismatches = check_lossless(request)
    identical = compared - near_ties - mismatches
    if as_json:
        counts = {"compared": compared, "identical": identical, "near_ties": near_ties, "mismatches": mismatches}
        print_json({"artifact": artifact, "files_intact": True, **counts})
    else:
        typer.echo(
            f"{artifact}: files intact; of {compared} greedy outputs: {identical} identical, "
            f"{near_ties} differ at a near-tie of the target's logits, {mismatches} differ elsewhere"
        )
    if mismatches:
        raise typer.Exit(EXIT_NOT_LOSSLESS)


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
