"""The pair and the target alone at several batch sizes: the schedule's k against every fixed k, predicted and measured.

    python -m benchmarks.batch --artifact autotune-run/artifact [--batches 1,2,4,8,16] [--out FILE]

At each batch, the target alone, the pair at every fixed k and, where the artifact has one for the batch, the pair by
its schedule decode all prompts in turn (A B C, C B A, …), with the same programs in one process.  `speedup` is the
median of the turns' ratios over the target alone.  `round_model` is what the batch's own latencies say of it, measured
right before:

    TAR(k) · verify(1) / (burst(k) + verify(k + 1))

with the TAR that was decoded, so that it tests the model of a round and not the estimate of acceptance;
`schedule_predicted` is what the artifact's manifest says of the schedule at that batch, estimate included.  A batch of
1 is decoded by the programs for one sequence, prompt by prompt.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autotune.artifact import DRAFT_FOLDER, Manifest
from autotune.batch_bench import batch_contest, hold_batch_contest
from autotune.batch_pair import compile_batch, lookahead_of
from autotune.batching import BatchRequest, BatchTable, measure_batch
from autotune.bench import BenchRequest, bench_prompts, open_artifact
from autotune.compile.sandbox import Limits
from autotune.contest import ContestRequest, hold_contest
from autotune.devices import device_lock
from autotune.errors import AutotuneError, BadRequest
from autotune.paired import median_ratio
from autotune.program import Program
from autotune.programs import compile_target
from autotune.results import MeasureSettings, Rejected
from autotune.runtime.batch_decode import BatchStatistics
from autotune.runtime.pairing import Pairing
from autotune.tallies import speed, speedup, tokens_per_round
from autotune.targets import Target
from benchmarks.record import machine, spread, write_record

_LIMITS = Limits(3600.0)
_CONTEXT_TOKENS = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True, help="made by `autotune run --batch …`")
    parser.add_argument("--target", help="as it is named now; default: as in the artifact")
    parser.add_argument("--batches", default="1,2,4,8,16")
    parser.add_argument("--lookaheads", default="1,2,3,4,6", help="fixed ones to compare with")
    parser.add_argument("--prompts", type=int, default=32, help="held-out prompts that are decoded")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5, help="times all decode everything")
    parser.add_argument("--threads", type=int, help="default: the artifact's")
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    arguments = parser.parse_args()
    facts = machine()
    request = BenchRequest(
        arguments.artifact,
        arguments.target,
        count=arguments.prompts,
        max_new_tokens=arguments.new_tokens,
        repeats=arguments.turns,
        threads=arguments.threads,
    )
    manifest, target = open_artifact(request)
    if manifest.draft is None:
        raise BadRequest(f"{arguments.artifact} has no draft to measure")
    lookaheads = [int(each) for each in arguments.lookaheads.split(",")]
    results = {
        batch: _single(request, manifest, target, lookaheads)
        if batch == "1"
        else _batch(request, manifest, target, int(batch), lookaheads)
        for batch in arguments.batches.split(",")
    }
    settings = {"prompts": arguments.prompts, "new_tokens": arguments.new_tokens, "turns": arguments.turns}
    write_record(
        "batch", facts, {"settings": settings, "batches": results}, ("numpy", "onnxruntime-gpu"), arguments.out
    )


def _single(request: BenchRequest, manifest: Manifest, target: Target, lookaheads: list[int]) -> dict[str, Any]:
    """One sequence at a time, by the shipped program."""
    draft, threads = request.artifact / DRAFT_FOLDER, request.threads or manifest.threads
    ks = [*lookaheads, *([manifest.lookahead] if manifest.lookahead else [])]
    capacity, made_for = Program.read(draft).capacity_tokens, manifest.target
    program = compile_target(target, made_for.backend, capacity, device=made_for.device, precision=made_for.precision)
    contest = ContestRequest(
        target=str(program),
        contenders=tuple(Pairing(str(draft), k) for k in ks),
        prompts=bench_prompts(request, manifest, target),
        max_new_tokens=request.max_new_tokens,
        sampling=request.sampling,
        eos_ids=target.eos_ids,
        seed=request.seed,
        threads=threads,
        repeats=request.repeats,
    )
    outcome = hold_contest(contest, _LIMITS, device_lock(made_for.device))
    if isinstance(outcome, Rejected):
        raise AutotuneError(f"decoding failed: {outcome.reason.value}, {outcome.detail}")
    alone, *tallies = outcome.tallies
    names = [*map(str, lookaheads), "schedule"]
    pairs = {
        name: {
            "lookahead": [k],
            "tokens_per_s": speed(tally).value,
            "tokens_per_round": tokens_per_round(tally).value,
            "speedup": asdict(speedup(tally, alone)),
            "near_ties": tally.near_ties,
            "mismatches": tally.mismatches,
        }
        for name, k, tally in zip(names, ks, tallies, strict=False)
    }
    predicted = manifest.figures.speedup_predicted if manifest.figures and manifest.lookahead else None
    return {
        "alone_tokens_per_s": speed(alone).value,
        "pairs": pairs,
        "schedule_predicted": asdict(predicted) if predicted else None,
    }


def _batch(
    request: BenchRequest, manifest: Manifest, target: Target, batch: int, lookaheads: list[int]
) -> dict[str, Any]:
    """Several at once."""
    programs = compile_batch(request.artifact, manifest, target, batch, max(lookaheads))
    assert programs.draft is not None
    schedules = {str(k): (k,) * batch for k in lookaheads}
    scheduled = any(smallest <= batch <= largest for smallest, largest, _ in manifest.lookahead_schedule)
    if scheduled:
        by_schedule = lookahead_of(manifest, batch)
        schedules["schedule"] = tuple(
            by_schedule(active) if callable(by_schedule) else by_schedule for active in range(1, batch + 1)
        )
    measuring = MeasureSettings(_CONTEXT_TOKENS, request.threads or manifest.threads)
    asked = BatchRequest(str(programs.target), str(programs.draft), max(lookaheads), measuring)
    table = measure_batch(asked, _LIMITS, device_lock("cpu"))
    if isinstance(table, Rejected):
        raise AutotuneError(f"measuring failed: {table.reason.value}, {table.detail}")
    contest = batch_contest(request, manifest, target, programs, tuple(schedules.values()))
    tallies = hold_batch_contest(contest, device_lock("cpu"))
    alone, *turns = tallies.turns
    pairs = {}
    for place, ((name, ks), own) in enumerate(zip(schedules.items(), turns, strict=True), 1):
        pooled = BatchStatistics()
        for each in own:
            pooled.add(each)
        pairs[name] = {
            "lookahead": ks,
            "tokens_per_s": spread([each.tokens_per_s for each in own]),
            "tokens_per_round": pooled.tokens_per_round,
            "sequences_at_once": pooled.rounds / sum(each.batches for each in own),
            "overhead_share": pooled.overhead_s / pooled.decode_s,
            "speedup": asdict(median_ratio([each.tokens_per_s for each in own], [each.tokens_per_s for each in alone])),
            "round_model": _model(table, pooled.tokens_per_round, ks[-1]),
            "near_ties": tallies.near_ties[place],
            "mismatches": tallies.mismatches[place],
        }
    predicted = next((each.speedup for each in manifest.batches if each.batch == batch), None)
    return {
        "alone_tokens_per_s": spread([each.tokens_per_s for each in alone]),
        "pairs": pairs,
        "schedule_predicted": asdict(predicted) if predicted else None,
    }


def _model(table: BatchTable, tokens_per_round: float, k: int) -> float:
    """The speed-up of a full batch that the latencies say; of k = 0, 1."""
    if k == 0:
        return 1.0
    return tokens_per_round * table.verify.seconds(1) / (table.burst.seconds(k) + table.verify.seconds(k + 1))


if __name__ == "__main__":
    main()
