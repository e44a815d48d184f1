"""An artifact's pair against its target alone, both decoding several sequences at once."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import TypeAdapter

from autotune.artifact import Manifest
from autotune.batch_pair import BatchPrograms, compile_batch, lookahead_of
from autotune.bench import BenchRequest, bench_prompts, open_artifact
from autotune.compile.sandbox import Limits, Phase, run_sandboxed
from autotune.contest import differs_at_near_tie
from autotune.devices import device_lock, find_device
from autotune.errors import AutotuneError, BadRequest
from autotune.paired import median_ratio
from autotune.program import Program
from autotune.programs import compile_target
from autotune.results import Figure, Rejected
from autotune.runtime.batch_decode import BatchDecoder, BatchStatistics
from autotune.runtime.decode import Decoder, DecodeRequest
from autotune.runtime.session import Session, open_batch_session, open_session
from autotune.sampling import SamplingSettings
from autotune.targets import Target

_TIME_LIMIT_S = 3600.0


@dataclass(frozen=True)
class BatchContest:
    """Who decodes what, how and how often, as the worker is told it."""

    target: str
    draft: str | None
    single_target: str
    """The target's program for one sequence, whose greedy output is to be the pair's."""
    schedules: tuple[tuple[int, ...], ...]
    """Of each contender beside the target alone: k while 1, 2, … sequences are decoded."""
    prompts: tuple[tuple[int, ...], ...]
    max_new_tokens: int
    sampling: SamplingSettings
    eos_ids: tuple[int, ...]
    seed: int
    threads: int
    repeats: int


@dataclass(frozen=True)
class BatchTallies:
    """What all did, the target alone first: statistics of each turn, and outputs beside those of the single target."""

    turns: tuple[tuple[BatchStatistics, ...], ...]
    near_ties: tuple[int, ...]
    mismatches: tuple[int, ...]


@dataclass(frozen=True)
class BatchBenchResult:
    """Pair and target alone, each decoding all prompts in turn (A B B A …) in one process."""

    artifact: str
    target: str
    device: str
    threads: int
    batch: int
    schedule: tuple[int, ...]
    """k while 1, 2, … sequences were decoded."""
    prompts: int
    repeats: int
    tokens_per_s: float
    """Of all sequences together; median over the turns, as the next one."""
    tokens_per_s_alone: float
    speedup: Figure
    speedup_predicted: Figure | None
    """What the schedule says of this batch; None if the run did not measure it or another k was asked for."""
    tokens_per_round: float
    sequences_at_once: float
    """On average over the pair's rounds."""
    overhead_share: float
    near_ties: int
    mismatches: int


def bench_batch(request: BenchRequest, batch: int, lookahead: int | None = None) -> BatchBenchResult:
    """The measured pair at a batch; lookahead: a fixed k in place of the schedule's.

    BadRequest if that comes to the target alone at any number of sequences, or there are fewer prompts than sequences.
    """
    manifest, target = open_artifact(request)
    k = lookahead_of(manifest, batch, lookahead)
    if not k:
        raise BadRequest(
            f"k is 0 for every number of sequences up to {batch}: the target alone is fastest, there is no pair to "
            "measure; --lookahead measures one all the same"
        )
    schedule = tuple(k(active) if callable(k) else k for active in range(1, batch + 1))
    programs = compile_batch(request.artifact, manifest, target, batch, lookahead)
    contest = batch_contest(request, manifest, target, programs, (schedule,))
    tallies = hold_batch_contest(contest, device_lock(manifest.target.device))
    pooled = BatchStatistics()
    for each in tallies.turns[1]:
        pooled.add(each)
    batches = sum(each.batches for each in tallies.turns[1])
    alone, pair = (tuple(each.tokens_per_s for each in turns) for turns in tallies.turns)
    predicted = next((each.speedup for each in manifest.batches if each.batch == batch), None)
    return BatchBenchResult(
        artifact=str(request.artifact),
        target=target.id,
        device=find_device(manifest.target.device).fingerprint,
        threads=contest.threads,
        batch=batch,
        schedule=schedule,
        prompts=len(contest.prompts),
        repeats=request.repeats,
        tokens_per_s=median_ratio(pair, [1.0] * len(pair)).value,
        tokens_per_s_alone=median_ratio(alone, [1.0] * len(alone)).value,
        speedup=median_ratio(pair, alone),
        speedup_predicted=predicted if lookahead is None else None,
        tokens_per_round=pooled.tokens_per_round,
        sequences_at_once=pooled.rounds / batches,
        overhead_share=pooled.overhead_s / pooled.decode_s,
        near_ties=tallies.near_ties[1],
        mismatches=tallies.mismatches[1],
    )


def batch_contest(
    request: BenchRequest,
    manifest: Manifest,
    target: Target,
    programs: BatchPrograms,
    schedules: tuple[tuple[int, ...], ...],
) -> BatchContest:
    """The contest of these schedules; BadRequest if there are fewer prompts than sequences."""
    program = Program.read(programs.target)
    prompts = bench_prompts(request, manifest, target)
    if len(prompts) < program.batch:
        raise BadRequest(
            f"{len(prompts)} prompts cannot fill a batch of {program.batch}: raise --count, or give more prompts"
        )
    single = compile_target(target, program.backend, program.capacity_tokens, precision=program.precision)
    return BatchContest(
        target=str(programs.target),
        draft=None if programs.draft is None else str(programs.draft),
        single_target=str(single),
        schedules=schedules,
        prompts=prompts,
        max_new_tokens=request.max_new_tokens,
        sampling=request.sampling,
        eos_ids=target.eos_ids,
        seed=request.seed,
        threads=request.threads or manifest.threads,
        repeats=request.repeats,
    )


def hold_batch_contest(contest: BatchContest, lock: FileLock) -> BatchTallies:
    """The contest, held in a worker of its own; AutotuneError if it fails."""
    outcome = run_sandboxed(
        f"{__name__}:{batch_contest_job.__name__}",
        asdict(contest),
        Phase.RUN,
        Limits(_TIME_LIMIT_S),
        threads=contest.threads,
        lock=lock,
    )
    if isinstance(outcome, Rejected):
        raise AutotuneError(f"decoding failed: {outcome.reason.value}, {outcome.detail}")
    return TypeAdapter(BatchTallies).validate_python(outcome)


def batch_contest_job(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sandbox entry: a `BatchContest` as JSON to `BatchTallies` as JSON."""
    contest = TypeAdapter(BatchContest).validate_python(fields)
    target = open_batch_session(Path(contest.target), contest.threads)
    draft = open_batch_session(Path(contest.draft), contest.threads) if contest.draft else None
    decoders = [BatchDecoder(target, None, 0)]
    for schedule in contest.schedules:
        decoders.append(BatchDecoder(target, draft, lambda active, schedule=schedule: schedule[active - 1]))  # type: ignore[misc]
    single = open_session(Path(contest.single_target), contest.threads)
    return asdict(run_batch_contest(decoders, single, contest))


def run_batch_contest(decoders: Sequence[BatchDecoder], single: Session, contest: BatchContest) -> BatchTallies:
    """The tallies of decoders that decode all prompts in turn (A B C, C B A, …), each once before anything counts.

    single: a session of the target's, whose own greedy output all others are compared with.
    """
    turns: list[list[BatchStatistics]] = [[] for _ in decoders]
    near_ties, mismatches = [0] * len(decoders), [0] * len(decoders)
    for repeat in range(contest.repeats + 1):
        requests = [
            DecodeRequest(
                prompt,
                contest.max_new_tokens,
                contest.sampling,
                contest.seed + repeat * len(contest.prompts) + index,
                frozenset(contest.eos_ids),
            )
            for index, prompt in enumerate(contest.prompts)
        ]
        places = range(len(decoders))
        for place in reversed(places) if repeat % 2 else places:
            outputs, statistics = decoders[place].decode(requests)
            if repeat:
                turns[place].append(statistics)
            elif contest.sampling.greedy:
                for request, output in zip(requests, outputs, strict=True):
                    own, _ = Decoder(single, None, 0).decode(request)
                    level = differs_at_near_tie(single, tuple(request.prompt), own, output)
                    near_ties[place] += level is True
                    mismatches[place] += level is False
    return BatchTallies(tuple(map(tuple, turns)), tuple(near_ties), tuple(mismatches))
