"""A plan in words: which draft to make, on what evidence, and the commands that make it where the models are."""

import shlex
from pathlib import Path

from autotune.candidate import Build
from autotune.families.checkpoint import conversion_line, converted_folder
from autotune.request import Request
from autotune.results import Figure, Score
from autotune.sampling import SamplingSettings
from autotune.targets import preset_of

_SOURCE_FOLDER = "./source"
_TRACES = "traces.safetensors"
_OF_A_TARGET_ELSEWHERE = ("traces", "target-latency", "target-tp", "collective-latency")


def plan_text(request: Request, build: Build, score: Score) -> str:
    """The text of `PLAN.md`."""
    target, source = request.target.id, request.source.id
    fetch, record, finish, validate = plan_commands(request, build, score)
    given = request.config.target_latency is not None or _is_whole_then(request)
    instead = ", instead of `--batch`" if max(request.config.batch) > 1 else ""
    table = (
        ""
        if given
        else f"Add `--target-latency FILE` with the target's own latencies, measured where it is served{instead}, and "
        "nothing in this run is\nextrapolated. "
    )
    if _is_folder(source):
        get_source = f"Put the weights and the tokenizer of {source} into that folder, beside its `config.json`."
    else:
        get_source = f"Its licence may have to be accepted first.\n\n```\n{fetch}\n```"
    even = "" if score.break_even is None else f"It pays from {_figure(score.break_even)} tokens per round on. "
    return f"""# Plan: a draft for {target}

**This is a plan, not a result.** Neither the weights nor any text of {target} were there when it was made.

Make {build.shape} ({build.shape.parameters / 1e6:,.0f} M parameters, {build.precision.value}, {build.backend}),
cut from {source}, and draft k = {score.lookahead} tokens a round.

* A round takes {_figure(score.round_s, 1e3)} ms. {even}The draft's part is measured on {request.device.name}.
* {_figure(score.tokens_per_round)} tokens per round are assumed, and with them {_figure(score.speedup)} times the
  speed of the target alone. The assumption is taken from another family of models and says nothing about {target}.

`hf_config/config.json` describes the draft to any tool that prunes or trains.

## 1. Fetch the source

{get_source}

## 2. Record the target's text

Where {target} is served by an engine with an OpenAI-compatible interface; put its address in.

```
{record}
```

## 3. Prune, train, compile and measure the draft

```
{finish}
```

{table}Without the ranges, the same command searches all shapes again, now with the target's own text.

## 4. Validate

Where the target's weights are:

```
{validate}
```
"""


def plan_commands(request: Request, build: Build, score: Score) -> tuple[str, str, str, str]:
    """The commands that fetch the source, record the target's text, make the draft, and validate it.

    The first is empty where the source is a folder.
    """
    config, shape = request.config, build.shape
    sampling = _sampling_words(config.sampling)
    preset = preset_of(request.source.id)
    repository = preset.repository if preset else request.source.id
    # A preset's tokenizer can be fetched alone, if it need not be converted; otherwise the source's is the same.
    known = preset_of(config.target)
    source, fetch = _source(repository, pickled=preset is not None and preset.pickled)
    named = [source] if known is None or known.pickled else [config.target, "--download"]
    record = ["autotune", "traces", "--target", *named, "--endpoint", "http://HOST:PORT/v1", "--out", _TRACES]
    record += ["--prompts", config.prompts, "--max-new-tokens", str(config.max_new_tokens), *sampling]
    words = {
        "target": config.target,
        "source": source,
        "traces": _TRACES,
        "layers": shape.layers,
        "heads": shape.heads,
        "kv-heads": shape.kv_heads if shape.kv_heads != shape.heads else None,
        "ffn": shape.ffn,
        "hidden": shape.hidden,
        "draft-vocab": shape.draft_vocab or "full",
        "lookahead": score.lookahead,
        "precision": build.precision.value,
        "target-precision": config.target_precision and config.target_precision.value,
        "backend": build.backend,
        "target-backend": config.target_backend,
        "device": config.device,
        "context": config.context,
        "batch": ",".join(map(str, config.batch)) if max(config.batch) > 1 else None,
        "threads": config.threads,
        "target-latency": config.target_latency,
        "target-tp": config.target_tp if config.target_tp > 1 else None,
        "collective-latency": None if config.collective_latency is None else f"{config.collective_latency:g}",
        "seed": config.seed,
        "out": "draft",
    }
    left_out = _OF_A_TARGET_ELSEWHERE if _is_whole_then(request) else ()
    finish = ["autotune", "run"]
    for name, value in words.items():
        finish += [] if value is None or name in left_out else [f"--{name}", str(value)]
    validate = ["autotune", "bench", "draft/artifact", "--target", "FOLDER"]
    return fetch, shlex.join(record), shlex.join([*finish, *sampling]), shlex.join(validate)


def _source(repository: str, *, pickled: bool) -> tuple[str, str]:
    """The folder of the source's weights, and the command that makes it; an empty one if it is there already."""
    if _is_folder(repository):
        return repository, ""
    if pickled:
        return f"./{converted_folder(repository)}", conversion_line(repository)
    return _SOURCE_FOLDER, shlex.join(["hf", "download", repository, "--local-dir", _SOURCE_FOLDER])


def _is_whole_then(request: Request) -> bool:
    """Whether getting the source's weights makes the target whole, being the same folder."""
    return request.source.id == request.target.id and _is_folder(request.source.id)


def _is_folder(name: str) -> bool:
    """Whether a model's name is that of a folder, not of a repository."""
    return Path(name).expanduser().is_dir()


def _sampling_words(sampling: SamplingSettings) -> list[str]:
    """The flags of a way of sampling; none for greedy."""
    if sampling.greedy:
        return []
    return ["--temperature", str(sampling.temperature), "--top-k", str(sampling.top_k), "--top-p", str(sampling.top_p)]


def _figure(figure: Figure, factor: float = 1.0) -> str:
    """A figure with its evidence and interval."""
    between = ""
    if figure.low is not None and figure.high is not None:
        between = f", {figure.low * factor:.2f} … {figure.high * factor:.2f}"
    return f"{figure.value * factor:.2f} ({figure.evidence.value}{between})"
