"""An artifact against the target alone, and the check that the pair is lossless."""

from dataclasses import dataclass
from pathlib import Path

from autotune.artifact import DRAFT_FOLDER, Manifest, check_belongs, verify_runnable
from autotune.compile.sandbox import Limits
from autotune.contest import ContestRequest, ContestResult, Tally, hold_contest
from autotune.devices import check_compiled_for, device_lock, find_device
from autotune.errors import AutotuneError, BadRequest
from autotune.pair import pairing_of
from autotune.program import Program
from autotune.programs import compile_target
from autotune.results import Figure, Rejected
from autotune.runtime.pairing import Pairing
from autotune.sampling import SamplingSettings
from autotune.tallies import speed, speedup, tokens_per_round
from autotune.targets import Target, resolve_target
from autotune.workload import BUILTIN, Prompt, read_prompts, split_prompts, tokenize

_TIME_LIMIT_S = 3600.0


@dataclass(frozen=True)
class BenchRequest:
    """What to decode, how, and how often."""

    artifact: Path
    target: str | None = None
    prompts: str = "builtin"
    count: int = 32
    """Prompts used: this many, evenly spread over the file."""
    max_new_tokens: int = 64
    sampling: SamplingSettings = SamplingSettings()
    seed: int = 0
    repeats: int = 5
    threads: int | None = None


@dataclass(frozen=True)
class AdaptiveBench:
    """The pair with an adaptive lookahead, in the same contest."""

    tokens_per_s: Figure
    gain: Figure
    """Over the fixed lookahead."""
    speedup: Figure
    tokens_per_round: Figure
    drafted_per_round: float
    near_ties: int
    mismatches: int


@dataclass(frozen=True)
class BenchResult:
    """The pair and the target alone, decoded in turn (A B A B) in one process."""

    artifact: str
    target: str
    device: str
    threads: int
    lookahead: int
    prompts: int
    repeats: int
    tokens_per_s: Figure
    tokens_per_s_alone: Figure
    speedup: Figure
    tokens_per_round: Figure
    overhead_share: float
    """Share of a round spent outside both models."""
    near_ties: int
    mismatches: int
    adaptive: AdaptiveBench | None = None
    """What choosing the lookahead round by round does; the other figures are those of the fixed one."""


def bench_artifact(request: BenchRequest) -> BenchResult:
    """The artifact's pair measured against its target alone; BadRequest for k = 0, which has nothing to compare."""
    manifest, target = open_artifact(request)
    if not manifest.lookahead:
        raise BadRequest(f"{request.artifact} says k = 0: the target alone is fastest, there is no pair to measure")
    result = _contest(request, manifest, target)
    alone, pair, *adaptive = result.tallies
    pooled = pair.pooled()
    return BenchResult(
        artifact=str(request.artifact),
        target=target.id,
        device=find_device(manifest.target.device).fingerprint,
        threads=request.threads or manifest.threads,
        lookahead=manifest.lookahead,
        prompts=len(pair.statistics),
        repeats=request.repeats,
        tokens_per_s=speed(pair),
        tokens_per_s_alone=speed(alone),
        speedup=speedup(pair, alone),
        tokens_per_round=tokens_per_round(pair),
        overhead_share=pooled.overhead_s / pooled.decode_s,
        near_ties=pair.near_ties,
        mismatches=pair.mismatches,
        adaptive=_adaptive(adaptive[0], pair, alone) if adaptive else None,
    )


def _adaptive(tally: Tally, pair: Tally, alone: Tally) -> AdaptiveBench:
    pooled = tally.pooled()
    return AdaptiveBench(
        tokens_per_s=speed(tally),
        gain=speedup(tally, pair),
        speedup=speedup(tally, alone),
        tokens_per_round=tokens_per_round(tally),
        drafted_per_round=pooled.drafted / pooled.rounds,
        near_ties=tally.near_ties,
        mismatches=tally.mismatches,
    )


def check_lossless(request: BenchRequest) -> tuple[int, int, int]:
    """Outputs compared, near-ties and mismatches of greedy decoding, after every file was verified.

    With an adaptive lookahead, every prompt is decoded with that and with the fixed one.
    """
    manifest, target = open_artifact(request)
    if not manifest.lookahead:
        return 0, 0, 0
    _, *pairs = _contest(request, manifest, target).tallies
    compared = sum(len(pair.statistics) for pair in pairs)
    return compared, sum(pair.near_ties for pair in pairs), sum(pair.mismatches for pair in pairs)


def open_artifact(request: BenchRequest) -> tuple[Manifest, Target]:
    """The artifact's manifest and its target, after every file was verified."""
    manifest = verify_runnable(request.artifact)
    check_compiled_for(manifest.target.device, request.artifact)
    target = resolve_target(request.target or manifest.target.id)
    check_belongs(manifest, request.artifact, target.id, target.fingerprint, target.tokenizer_fingerprint)
    return manifest, target


def _contest(request: BenchRequest, manifest: Manifest, target: Target) -> ContestResult:
    made_for = manifest.target
    target_program = compile_target(
        target,
        made_for.backend,
        _capacity_tokens(request, manifest, target),
        device=made_for.device,
        precision=made_for.precision,
    )
    contest = ContestRequest(
        target=str(target_program),
        contenders=_contenders(request, manifest),
        prompts=bench_prompts(request, manifest, target),
        max_new_tokens=request.max_new_tokens,
        sampling=request.sampling,
        eos_ids=target.eos_ids,
        seed=request.seed,
        threads=request.threads or manifest.threads,
        repeats=request.repeats,
    )
    result = hold_contest(contest, Limits(_TIME_LIMIT_S), device_lock(made_for.device))
    if isinstance(result, Rejected):
        raise AutotuneError(f"decoding failed: {result.reason.value}, {result.detail}")
    return result


def _contenders(request: BenchRequest, manifest: Manifest) -> tuple[Pairing, ...]:
    """What the artifact drafts with, in all its ways."""
    plans = (None, manifest.adaptive) if manifest.adaptive else (None,)
    return tuple(pairing_of(request.artifact, manifest, plan) for plan in plans)


def _capacity_tokens(request: BenchRequest, manifest: Manifest, target: Target) -> int:
    """Longest sequence that both models can follow."""
    if manifest.draft is None:
        return target.numerics.context_tokens
    return Program.read(request.artifact / DRAFT_FOLDER).capacity_tokens


def bench_prompts(request: BenchRequest, manifest: Manifest, target: Target) -> tuple[tuple[int, ...], ...]:
    """Token ids of the prompts to decode; BadRequest if one does not fit the draft's context."""
    context_tokens = _capacity_tokens(request, manifest, target)
    tokens = tokenize(_prompts(request, manifest), target.open_tokenizer(), context_tokens)
    return tuple(tuple(prompt.ids.tolist()) for prompt in tokens)


def _prompts(request: BenchRequest, manifest: Manifest) -> list[Prompt]:
    """`count` prompts, evenly spread; of the built-in ones only those that the artifact's run did not learn from."""
    prompts = tuple(prompt for prompt in read_prompts(request.prompts) if not prompt.only_train)
    if request.prompts == BUILTIN:
        prompts = split_prompts(prompts, manifest.provenance.seed).validate
    if not prompts:
        raise BadRequest(f"{request.prompts} holds only prompts to train on: give others to decode")
    count = min(request.count, len(prompts))
    return [prompts[index * len(prompts) // count] for index in range(count)]
