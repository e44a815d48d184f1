"""Choosing the lookahead round by round against every fixed lookahead, on a mixed workload, in one run.

    python -m benchmarks.adaptive --artifact RUN/artifact [--sizes demo,grown] [--compilers tvm,onnxruntime]
        [--temperatures 0,0.7] [--prompts 24] [--new-tokens 128] [--max-lookahead 12] [--runs 5] [--out FILE]

The artifact's draft for the demo target, and for that target grown (the same function at the cost of its size, see
`benchmarks.peers.grown`), both models compiled by the same compiler.  The plan is made as a run makes it, from traces
of prompts that are not decoded here; then all lookaheads and the adaptive one decode held-out prompts in turn, in an
order that rotates with the prompt and turns around with every repeat, `--runs` times.  Ratios are of one run each:
adaptive over the fixed lookahead that is fastest in all runs together, which is in that one's favour.

Half of the prompts are those whose continuation loops, if there are as many: loops are easy to draft.  Figures are told
for all, for these halves, and for the prompts' own categories.
"""

import argparse
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autotune.adaptive_estimate import estimate, make_plan
from autotune.adaptive_job import AdaptiveRequest, measure_latencies, observe, texts_of
from autotune.artifact import CHECKPOINT_FOLDER, TOKENIZER_FOLDER
from autotune.candidate import Precision
from autotune.compile.base import CompileSettings, build_program
from autotune.contest import ContestRequest, Tally, run_contest
from autotune.families import read_checkpoint
from autotune.measure import BurstRequest, measure_bursts
from autotune.results import MeasureSettings
from autotune.runtime.adaptive import AdaptiveDrafter
from autotune.runtime.decode import Decoder
from autotune.runtime.drafter import ModelDrafter
from autotune.runtime.session import Session, open_session
from autotune.sampling import SamplingSettings
from autotune.stopping import AdaptivePlan
from autotune.target_side import MOST_EVICT_BYTES
from autotune.targets import Target, resolve_target
from autotune.traces import Trace, record
from autotune.weights import ModelWeights
from autotune.workload import BUILTIN, Prompt, PromptTokens, read_prompts, split_prompts, tokenize
from benchmarks.peers.grown import grow
from benchmarks.record import machine, spread, write_record

GROWN = (5, 12)
"""Times the width, and layers in all."""
CONTEXT_TOKENS = 512
MEASURED_CONTEXT_TOKENS = 128
ALL = "all"


@dataclass(frozen=True)
class Workload:
    """Prompts to decode, and traces of others to plan by."""

    prompts: tuple[tuple[int, ...], ...]
    labels: tuple[tuple[str, ...], ...]
    """Of each prompt."""
    traces: tuple[Trace, ...]
    eos_ids: tuple[int, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True, help="of a run for the demo target")
    parser.add_argument("--sizes", default="demo,grown")
    parser.add_argument("--compilers", default="tvm,onnxruntime")
    parser.add_argument("--temperatures", default="0,0.7")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--plan-prompts", type=int, default=96)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--max-lookahead", type=int, default=12)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    arguments = parser.parse_args()
    facts, target = machine(), resolve_target("demo")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        draft = _draft(arguments.artifact, work / "draft")
        small = open_session(_compiled(target.read_weights(), "onnxruntime", work / "recorder", 0), arguments.threads)
        for temperature in map(float, arguments.temperatures.split(",")):
            sampling = SamplingSettings(temperature)
            workload = gather(target, small, sampling, arguments)
            for size in arguments.sizes.split(","):
                weights = target.read_weights()
                whole = grow(weights, *GROWN) if size == "grown" else weights
                for compiler in arguments.compilers.split(","):
                    folders = [
                        _compiled(each, compiler, work / f"{role}-{size}-{compiler}", arguments.max_lookahead)
                        for role, each in (("target", whole), ("draft", draft))
                    ]
                    pair = [open_session(folder, arguments.threads) for folder in folders]
                    results[f"{size} {compiler} T={temperature:g}"] = compare(*pair, workload, sampling, arguments)
                    for session in pair:
                        session.close()
    write_record("adaptive", facts, {"settings": _settings(arguments), "pairs": results}, ("numpy",), arguments.out)


def compare(
    target: Session, draft: Session, workload: Workload, sampling: SamplingSettings, arguments: argparse.Namespace
) -> Mapping[str, Any]:
    """Estimate and measurement of one pair."""
    shape = target.program.shape
    request = AdaptiveRequest(
        target="",
        draft="",
        texts=texts_of(workload.traces),
        lookahead=1,
        max_lookahead=arguments.max_lookahead,
        measuring=MeasureSettings(
            MEASURED_CONTEXT_TOKENS,
            arguments.threads,
            evict_bytes=min(shape.weight_bytes(target.program.precision), MOST_EVICT_BYTES),
        ),
        sampling=sampling,
        overhead_s=0.0,
    )
    measure_bursts(
        draft, BurstRequest("", arguments.max_lookahead, request.measuring, sampling)
    )  # chooses how it drafts
    observed = [observe(draft, text, sampling) for text in request.texts]
    latencies = measure_latencies(target, draft, request)
    estimated = estimate(observed, latencies, sampling)
    runs = decode(target, draft, make_plan(observed, latencies, sampling), workload, sampling, arguments)
    return {
        "target_parameters": shape.parameters,
        "draft": str(draft.program.shape),
        "drafting": draft.drafting.value,
        "latencies_s": {
            "burst": latencies.burst_s,
            "stopping_burst": latencies.stopping_s,
            "verification": latencies.verify_s,
        },
        "estimated": {
            "gain": estimated.gain.value,
            "interval": [estimated.gain.low, estimated.gain.high],
            "lookahead": estimated.lookahead,
            "drafted_per_round": estimated.drafted_per_round,
            "tokens_per_round": estimated.tokens_per_round,
        },
        "measured": {label: figures(runs, workload, label) for label in _labels(workload)},
        "mismatches": sum(tally.mismatches for run in runs for tally in run),
        "near_ties": sum(tally.near_ties for run in runs for tally in run),
    }


def decode(
    target: Session,
    draft: Session,
    plan: AdaptivePlan,
    workload: Workload,
    sampling: SamplingSettings,
    arguments: argparse.Namespace,
) -> list[Sequence[Tally]]:
    """Of every run: the target alone, all fixed lookaheads, and the adaptive one."""
    fixed = [Decoder(target, ModelDrafter(draft), k) for k in range(1, arguments.max_lookahead + 1)]
    decoders = [Decoder(target, None, 0), *fixed, Decoder(target, AdaptiveDrafter(draft, plan), plan.most)]
    request = ContestRequest(
        target="",
        contenders=(),
        prompts=workload.prompts,
        max_new_tokens=arguments.new_tokens,
        sampling=sampling,
        eos_ids=workload.eos_ids,
        seed=0,
        threads=arguments.threads,
        repeats=2,
    )
    return [
        run_contest(decoders, replace(request, seed=run * 2 * len(workload.prompts))).tallies
        for run in range(arguments.runs)
    ]


def figures(runs: Sequence[Sequence[Tally]], workload: Workload, label: str) -> Mapping[str, Any]:
    """Tokens/s on the prompts of one label, and the ratios of every run."""
    members = [n for n, labels in enumerate(workload.labels) if label in labels]
    speeds = np.array([[_speed(tally, members) for tally in run] for run in runs])
    fixed, everywhere = (
        np.array([[_speed(tally, of) for tally in run] for run in runs]).sum(0)
        for of in (members, range(len(workload.prompts)))
    )
    best, own = int(np.argmax(everywhere[:-1])), int(np.argmax(fixed[:-1]))
    last = [run[-1].statistics[n] for run in runs for n in members]
    return {
        "prompts": len(members),
        "tokens_per_s": {str(k): spread(speeds[:, k].tolist()) for k in range(speeds.shape[1] - 1)},
        "adaptive_tokens_per_s": spread(speeds[:, -1].tolist()),
        "best_fixed": best,
        "adaptive_over_best_fixed": spread((speeds[:, -1] / speeds[:, best]).tolist()),
        "best_fixed_of_these": own,
        "adaptive_over_best_fixed_of_these": spread((speeds[:, -1] / speeds[:, own]).tolist()),
        "tokens_per_round": sum(each.tokens for each in last) / sum(each.rounds for each in last),
        "drafted_per_round": sum(each.drafted for each in last) / sum(each.rounds for each in last),
    }


def gather(target: Target, session: Session, sampling: SamplingSettings, arguments: argparse.Namespace) -> Workload:
    """Held-out prompts, and traces of the estimation split's; `session`: the demo target's."""
    prompts = tuple(prompt for prompt in read_prompts(BUILTIN) if not prompt.only_train)
    splits = split_prompts(prompts, seed=0)
    planned = _spread_over(target, splits.estimate, arguments.plan_prompts)
    candidates = _spread_over(target, splits.validate, min(4 * arguments.prompts, len(splits.validate)))
    traces, continued = (
        record(session, target, each, sampling, arguments.new_tokens).items for each in (planned, candidates)
    )
    looping, others = ([trace for trace in continued if trace.looping is loops] for loops in (True, False))
    half = max(arguments.prompts // 2, arguments.prompts - len(others))
    decoded = [*looping[:half], *others[: arguments.prompts - min(half, len(looping))]]
    return Workload(
        prompts=tuple(tuple(trace.prompt.tolist()) for trace in decoded),
        labels=tuple((ALL, "looping" if trace.looping else "not looping", trace.category) for trace in decoded),
        traces=traces,
        eos_ids=target.eos_ids,
    )


def _spread_over(target: Target, prompts: Sequence[Prompt], count: int) -> list[PromptTokens]:
    """So many of the prompts, evenly spread, that leave room for a continuation."""
    chosen = [prompts[index * len(prompts) // count] for index in range(count)]
    return tokenize(chosen, target.open_tokenizer(), target.numerics.context_tokens)


def _draft(artifact: Path, folder: Path) -> ModelWeights:
    """The artifact's draft as a model of its own, which has its tokenizer with it."""
    for part in (TOKENIZER_FOLDER, CHECKPOINT_FOLDER):  # the tokenizer's config.json is the target's
        shutil.copytree(artifact / part, folder, dirs_exist_ok=True)
    return read_checkpoint(folder)


def _compiled(weights: ModelWeights, compiler: str, folder: Path, longest_burst: int) -> Path:
    if not folder.exists():
        capacity = min(CONTEXT_TOKENS, weights.numerics.context_tokens)
        build_program(compiler, weights, CompileSettings(Precision.FP32, capacity, longest_burst=longest_burst), folder)
    return folder


def _labels(workload: Workload) -> list[str]:
    return list(dict.fromkeys(label for labels in workload.labels for label in labels))


def _speed(tally: Tally, members: Sequence[int]) -> float:
    counted = [tally.statistics[n] for n in members]
    return sum(each.tokens for each in counted) / sum(each.decode_s for each in counted)


def _settings(arguments: argparse.Namespace) -> Mapping[str, Any]:
    return {name: value for name, value in vars(arguments).items() if name not in ("artifact", "out")}


if __name__ == "__main__":
    main()
