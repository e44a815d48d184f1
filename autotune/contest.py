"""The contest: the target alone and the finalists really decode the held-out prompts, side by side in one process.

For each prompt the contenders decode one after the other, in an order that rotates from prompt to prompt and turns
around with every repeat (A B A B), so that a machine that changes speed changes it for all of them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import TypeAdapter

from autotune.candidate import QUANTISED, Precision
from autotune.compile.sandbox import Limits, Phase, run_sandboxed
from autotune.results import Rejected
from autotune.runtime.decode import Decoder, DecodeRequest, Statistics
from autotune.runtime.pairing import Pairing
from autotune.runtime.prefill import prefill
from autotune.runtime.session import Session, open_session
from autotune.sampling import SamplingSettings

NEAR_TIE = {
    **dict.fromkeys((Precision.FP32, *QUANTISED), 1e-4),
    Precision.FP16: 2**-7,
    Precision.BF16: 2**-4,
}
"""Logits closer than this to the largest, relative to it, may swap with it when positions are computed together.

At half precisions: eight steps of the format, since every activation on the way is rounded to it.
"""


@dataclass(frozen=True)
class ContestRequest:
    """Who decodes what, how and how often."""

    target: str
    contenders: tuple[Pairing, ...]
    prompts: tuple[tuple[int, ...], ...]
    max_new_tokens: int
    sampling: SamplingSettings
    eos_ids: tuple[int, ...]
    seed: int
    threads: int
    repeats: int


@dataclass(frozen=True)
class Tally:
    """What one contender did, per prompt: pooled counts and seconds over the repeats."""

    statistics: tuple[Statistics, ...]
    near_ties: int = 0
    """Prompts whose greedy output first differs from the target's own where its top two logits are level."""
    mismatches: int = 0
    """Prompts whose greedy output differs anywhere else: the pair would not be lossless."""

    def pooled(self) -> Statistics:
        """All prompts together."""
        total = Statistics()
        for statistics in self.statistics:
            total.add(statistics)
        return total


@dataclass(frozen=True)
class ContestResult:
    """The target alone first, then the contenders in the order they were given."""

    tallies: tuple[Tally, ...]


def hold_contest(request: ContestRequest, limits: Limits, lock: FileLock) -> ContestResult | Rejected:
    """The contest, held in a worker of its own."""
    outcome = run_sandboxed(
        f"{__name__}:contest_job", asdict(request), Phase.RUN, limits, threads=request.threads, lock=lock
    )
    return outcome if isinstance(outcome, Rejected) else TypeAdapter(ContestResult).validate_python(outcome)


def contest_job(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sandbox entry: a `ContestRequest` as JSON to a `ContestResult` as JSON."""
    parsed = TypeAdapter(ContestRequest).validate_python(request)
    target = open_session(Path(parsed.target), parsed.threads)
    decoders = [Decoder(target, None, 0), *(each.decoder(target, parsed.threads) for each in parsed.contenders)]
    dumped: Mapping[str, Any] = TypeAdapter(ContestResult).dump_python(run_contest(decoders, parsed), mode="json")
    return dumped


def run_contest(decoders: list[Decoder], request: ContestRequest) -> ContestResult:
    """The tallies of decoders (the target alone first) over the request's prompts."""
    statistics = [[Statistics() for _ in request.prompts] for _ in decoders]
    near_ties, mismatches = [0] * len(decoders), [0] * len(decoders)
    decoders[0].decode(_decode_request(request, 0, 0))  # warm-up
    for repeat in range(request.repeats):
        for index, prompt in enumerate(request.prompts):
            outputs: dict[int, list[int]] = {}
            for place in _order(len(decoders), index, repeat):
                outputs[place], counted = decoders[place].decode(_decode_request(request, index, repeat))
                statistics[place][index].add(counted)
            if request.sampling.greedy and repeat == 0:
                for place in range(1, len(decoders)):
                    level = differs_at_near_tie(decoders[0].target, prompt, outputs[0], outputs[place])
                    near_ties[place] += level is True
                    mismatches[place] += level is False
    return ContestResult(tuple(map(Tally, map(tuple, statistics), near_ties, mismatches)))


def differs_at_near_tie(
    target: Session, prompt: tuple[int, ...], expected: list[int], output: list[int]
) -> bool | None:
    """Whether the first difference of two greedy outputs is at a near-tie of the target's logits; None if equal."""
    if expected == output:
        return None
    place = next((n for n, pair in enumerate(zip(expected, output, strict=False)) if pair[0] != pair[1]), None)
    if place is None:  # one is the beginning of the other
        return False
    context = [*prompt, *expected[:place]]
    prefill(target, context[:-1])
    logits = target.logits(context[-1:], len(context) - 1)[0]
    largest = float(logits.max())
    lower = min(float(logits[expected[place]]), float(logits[output[place]]))
    return largest - lower <= NEAR_TIE[target.program.precision] * max(abs(largest), 1.0)


def _decode_request(request: ContestRequest, index: int, repeat: int) -> DecodeRequest:
    """The prompt's decoding; sampled anew in every repeat, so that repeats tell more about acceptance too."""
    return DecodeRequest(
        prompt=request.prompts[index],
        max_new_tokens=request.max_new_tokens,
        sampling=request.sampling,
        seed=request.seed + repeat * len(request.prompts) + index,
        eos_ids=frozenset(request.eos_ids),
    )


def _order(count: int, index: int, repeat: int) -> list[int]:
    rotated = [(index + place) % count for place in range(count)]
    return rotated[::-1] if repeat % 2 else rotated
