"""The pair against its peers: same weights, prompts, lookahead and threads, fp32, in turns, on one machine.

    python -m benchmarks.peers --artifact autotune-run/artifact [--out FILE] [--work DIR] [--pairs 5]

Every engine is a process that stays open and decodes when it is its turn: all engines decode all prompts, in an order
that rotates and turns around (A B C C B A …), `--pairs` times.  `ratio` is our tokens/s over the engine's in the same
turn, of the whole call (prefill included, since not every engine tells it apart); `decode_tokens_per_s` leaves the
prefill out, where an engine tells.  `tokens_per_round` is what the engine tells; those of OpenVINO GenAI and llama.cpp
count the prefill's token as a round.  `same_greedy` counts prompts whose greedy tokens equal those of our target alone,
`near_ties` those that first differ where the target's two best logits are level within rounding, `mismatches` those
that differ elsewhere.  Sampling is from the whole vocabulary.  Prompts and draft are the artifact's: its checkpoint, in
fp32, at its k; `ours` is compiled by the artifact's compilers, for the second size too, the other two by one alone.

The second size, `grown`, is the demo target widened and deepened to about 60 M parameters without changing its function
(`benchmarks.peers.grown`): the draft is just as good, only verification costs what that size does, as in practice.
This is *inflated verification cost*: its figures stand for a large target with a good draft, not for a better model.

Peers live in environments of their own under `--work`, made with pip when they are first needed.  An engine that cannot
be installed or run is a result with its reason.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autotune.artifact import CHECKPOINT_FOLDER, TOKENIZER_FOLDER, verify_runnable
from autotune.cache import content_key, source_hashes
from autotune.contest import differs_at_near_tie
from autotune.errors import AutotuneError, BadRequest
from autotune.families import write_checkpoint
from autotune.runtime.session import open_session
from autotune.targets import Target, resolve_target
from autotune.workload import BUILTIN, read_prompts, split_prompts, tokenize
from benchmarks.peers.engines import ENGINES, Pair, kept
from benchmarks.peers.environments import GENAI, OPENVINO
from benchmarks.peers.grown import grow
from benchmarks.peers.protocol import EngineFailed, EngineProcess
from benchmarks.record import machine, spread, write_record

OURS = next(iter(ENGINES))
ALONE = "ours, no draft"
GROWN_WIDTH, GROWN_LAYERS = 5, 12
FEWEST_PAIRS = 2
PACKAGES = ("torch", "transformers", "xllamacpp")
TEMPERATURES = (0.0, 0.7)
SIZES = {"demo": (12, 64), "grown": (6, 48)}
"""Prompts and new tokens of each size."""

Answers = list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True, help="of the demo, as `autotune run` ships it")
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument(
        "--work", type=Path, help="folder to keep environments and models in (default: a temporary one)"
    )
    parser.add_argument("--pairs", type=int, default=5, help="times every engine decodes everything")
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--engines", default=";".join(ENGINES), help="with semicolons")
    parser.add_argument("--prompts", type=int, help="instead of each size's own number")
    parser.add_argument("--lookahead", type=int, help="instead of the artifact's")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    try:
        record(arguments)
    except BadRequest as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def record(arguments: argparse.Namespace) -> None:
    """Compare as the arguments say and write the JSON document; BadRequest where they cannot be met."""
    sizes = _chosen("--sizes", arguments.sizes, ",", SIZES)
    names = _chosen("--engines", arguments.engines, ";", ENGINES)
    if arguments.pairs < FEWEST_PAIRS:
        raise BadRequest(f"--pairs {arguments.pairs}: a spread needs at least {FEWEST_PAIRS}")
    facts = machine()
    with tempfile.TemporaryDirectory() as name:
        work = (arguments.work or Path(name)).absolute()
        results = {size: compare(_pair(size, arguments, work), names, arguments.pairs) for size in sizes}
    settings = {"threads": arguments.threads, "pairs": arguments.pairs, "installed": [*GENAI, *OPENVINO]}
    packages = [name for name in PACKAGES if find_spec(name)]
    write_record("peers", facts, {"settings": settings, "sizes": results}, packages, arguments.out)


def _chosen(flag: str, given: str, separator: str, known: Collection[str]) -> list[str]:
    names = given.split(separator)
    for name in names:
        if name not in known:
            raise BadRequest(f"{flag} {name}: choose from {f'{separator} '.join(known)}")
    return names


def _pair(size: str, arguments: argparse.Namespace, work: Path) -> Pair:
    manifest = verify_runnable(arguments.artifact)
    if manifest.draft is None:
        raise BadRequest(f"{arguments.artifact} has no draft to compare with")
    target = resolve_target(manifest.target.id)
    if size == "grown":
        target = _grown(target, work / "grown-checkpoint")
    count, new_tokens = SIZES[size]
    prompts = _prompts(target, arguments.prompts or count, manifest.provenance.seed)
    capacity_tokens = max(map(len, prompts)) + new_tokens + 16
    lookahead = arguments.lookahead or manifest.lookahead
    sources = [source_hashes(package) for package in ("autotune.compile", "benchmarks.peers")]
    files = [entry.sha256 for entry in manifest.files]
    folder = work / f"{size}-{content_key(files, lookahead, arguments.threads, capacity_tokens, sources)}"
    folder.mkdir(parents=True, exist_ok=True)
    return Pair(
        target=target,
        draft=_draft(arguments.artifact, folder / "draft-checkpoint"),
        lookahead=lookahead,
        threads=arguments.threads,
        capacity_tokens=capacity_tokens,
        work=folder,
        compilers=(manifest.target.backend, manifest.draft.backend),
        environments=work,
        prompts=prompts,
        new_tokens=new_tokens,
    )


def _draft(artifact: Path, folder: Path) -> Target:
    """The artifact's draft as a model of its own, which has its tokenizer with it."""
    for part in (TOKENIZER_FOLDER, CHECKPOINT_FOLDER):  # the tokenizer's config.json is the target's
        shutil.copytree(artifact / part, folder, dirs_exist_ok=True)
    return resolve_target(str(folder))


def _grown(target: Target, folder: Path) -> Target:
    def make(part: Path) -> None:
        write_checkpoint(grow(target.read_weights(), GROWN_WIDTH, GROWN_LAYERS), part, like=target.checkpoint)
        for path in target.checkpoint.glob("tokenizer*"):
            shutil.copy(path, part)

    return resolve_target(str(kept(folder, make)))


def _prompts(target: Target, count: int, seed: int) -> list[list[int]]:
    """Prompts that neither the draft's training nor its choice saw, evenly spread."""
    held_out = split_prompts(tuple(each for each in read_prompts(BUILTIN) if not each.only_train), seed).validate
    chosen = [held_out[index * len(held_out) // count] for index in range(count)]
    return [each.ids.tolist() for each in tokenize(chosen, target.open_tokenizer(), target.numerics.context_tokens)]


def compare(pair: Pair, names: Sequence[str], pairs: int) -> dict[str, Any]:
    """All engines in turns, greedy and sampled."""
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        engines: dict[str, EngineProcess] = {}
        for place, name in enumerate(names):
            try:
                engines[name] = stack.enter_context(ENGINES[name](pair, pair.work / f"{place}.log"))
            except (EngineFailed, AutotuneError, ImportError, OSError) as error:
                failed[name] = str(error)
        by_temperature = {}
        for temperature in TEMPERATURES:
            turns = take_turns(engines, pair.prompts, pair.new_tokens, temperature, pairs, failed)
            by_temperature[f"{temperature:g}"] = {name: figures(turns, name) for name in turns}
            if temperature == 0.0 and ALONE in turns:
                for name in turns:
                    by_temperature["0"][name] |= _agreement(turns[ALONE][0], turns[name][0], pair)
    return {
        "target_parameters": pair.target.shape.parameters,
        "compilers": list(pair.compilers),
        "draft": str(pair.draft.shape),
        "lookahead": pair.lookahead,
        "prompts": len(pair.prompts),
        "new_tokens": pair.new_tokens,
        "failed": failed,
        "temperature": by_temperature,
    }


def take_turns(
    engines: dict[str, EngineProcess],
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    temperature: float,
    pairs: int,
    failed: dict[str, str],
) -> dict[str, list[Answers]]:
    """What every engine answered, by turn and prompt; one that fails drops out, with its reason in `failed`."""
    turns: dict[str, list[Answers]] = {name: [] for name in engines if name not in failed}
    for turn in range(-1, pairs):  # one to warm up
        for name in order(list(turns), turn):
            try:
                answers = [
                    dict(engines[name].generate(prompt, new_tokens, temperature, 1000 * (turn + 1) + index))
                    for index, prompt in enumerate(prompts if turn >= 0 else prompts[:2])
                ]
            except EngineFailed as error:
                failed[name] = f"at temperature {temperature:g}: {error}"
                del turns[name]
                continue
            if turn >= 0:
                turns[name].append(answers)
    return turns


def order(names: list[str], turn: int) -> list[str]:
    """The order of a turn: it rotates, and every other one goes backwards."""
    place = max(turn, 0) % max(len(names), 1)
    rotated = names[place:] + names[:place]
    return rotated[::-1] if turn % 2 else rotated


def figures(turns: dict[str, list[Answers]], name: str) -> dict[str, Any]:
    """What an engine came to, beside ours in the same turns."""
    speeds = [_speed(answers) for answers in turns[name]]
    flat = [answer for answers in turns[name] for answer in answers]
    rounds = sum(answer["rounds"] or 0 for answer in flat)
    found: dict[str, Any] = {
        "tokens_per_s": spread(speeds),
        "tokens_per_round": sum(len(answer["tokens"]) for answer in flat) / rounds if rounds else None,
        "first_token_s": spread([answer["first_s"] for answer in flat]),
        "peak_rss_mib": max(answer["peak_rss_bytes"] for answer in flat) / 2**20,
    }
    if all(answer["decode_s"] for answer in flat):
        found["decode_tokens_per_s"] = spread([_speed(answers, "decode_s") for answers in turns[name]])
    if OURS in turns and name != OURS:
        ours = [_speed(answers) for answers in turns[OURS]]
        found["ratio"] = spread([mine / theirs for mine, theirs in zip(ours, speeds, strict=True)])
    return found


def _speed(answers: Answers, seconds: str = "total_s") -> float:
    """Tokens/s, of whole calls unless told otherwise."""
    return sum(len(answer["tokens"]) for answer in answers) / sum(answer[seconds] for answer in answers)


def _agreement(expected: Answers, answers: Answers, pair: Pair) -> dict[str, int]:
    """How many prompts' greedy tokens are the same, or differ first where the target hardly decides, or elsewhere."""
    levels: list[bool | None] = []
    session = open_session(pair.program("target", "onnxruntime"), pair.threads)
    for prompt, own, theirs in zip(pair.prompts, expected, answers, strict=True):
        levels.append(differs_at_near_tie(session, tuple(prompt), own["tokens"], theirs["tokens"]))
    session.close()
    return {"same_greedy": levels.count(None), "near_ties": levels.count(True), "mismatches": levels.count(False)}


if __name__ == "__main__":
    main()
