"""The decoding loop: a target, perhaps a drafter, and the tokens they emit round by round.

Invariant between rounds: `sequence` holds the prompt and everything emitted, the target's cache all of it but the last
token.  The prompt is therefore prefilled without its last token, so that every emitted token, the first included, comes
from a round, just as the acceptance mathematics counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple

import numpy as np

from autotune.errors import BadRequest
from autotune.runtime.drafter import NOTHING, Drafter
from autotune.runtime.logprobs import NotedLogits, TokenLogprobs
from autotune.runtime.prefill import prefill
from autotune.runtime.session import Session
from autotune.runtime.speculate import Verifier, verify_greedy, verify_sampled
from autotune.sampling import SamplingSettings


@dataclass(frozen=True)
class DecodeRequest:
    """What to decode: `prompt` token ids (at least one), how many tokens at most, and how to draw them."""

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: SamplingSettings = SamplingSettings()
    seed: int = 0
    eos_ids: frozenset[int] = frozenset()
    lookahead: int | None = None
    """Fewer drafted tokens a round than the decoder's; 0: the target alone."""
    logprobs: int | None = None
    """How many of the likeliest tokens are told with every emitted one, as the target ranks them; None: nothing."""


class Round(NamedTuple):
    """What one round emitted."""

    tokens: list[int]
    """The accepted tokens and the target's own behind them, unless EOS among them ended the sequence."""
    drafted: int
    """Tokens that were proposed."""
    accepted: int
    """Proposed tokens among `tokens`: its first ones."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    """Of each of `tokens`, where they were asked for."""


@dataclass
class Statistics:
    """Counts and seconds of one or more decodings; ratios are derived, so that statistics can be added up."""

    tokens: int = 0
    rounds: int = 0
    drafted: int = 0
    """Tokens that were proposed."""
    emitted: list[int] = field(default_factory=list)
    """`emitted[n]`: rounds that emitted n + 1 tokens."""
    prefill_s: float = 0.0
    burst_s: float = 0.0
    verify_s: float = 0.0
    decode_s: float = 0.0
    """Seconds from the end of the prefill to the last token, both models and the loop."""

    @property
    def tokens_per_round(self) -> float:
        """TAR: emitted tokens per round, the target's own included."""
        return self.tokens / self.rounds if self.rounds else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Emitted tokens per second of decoding (without the prefill)."""
        return self.tokens / self.decode_s if self.decode_s else 0.0

    @property
    def overhead_s(self) -> float:
        """Seconds of decoding spent outside both models."""
        return self.decode_s - self.burst_s - self.verify_s

    def count_round(self, counted: Round) -> None:
        """Count one round."""
        emitted = len(counted.tokens)
        self.tokens += emitted
        self.rounds += 1
        self.drafted += counted.drafted
        self.emitted += [0] * (emitted - len(self.emitted))
        self.emitted[emitted - 1] += 1

    def add(self, other: "Statistics") -> None:
        """Pool another decoding's counts and seconds into this one."""
        self.emitted += [0] * (len(other.emitted) - len(self.emitted))
        for index, count in enumerate(other.emitted):
            self.emitted[index] += count
        for name in ("tokens", "rounds", "drafted", "prefill_s", "burst_s", "verify_s", "decode_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def check_request(request: DecodeRequest, capacity_tokens: int) -> None:
    """BadRequest unless the request can be decoded in a context of that many tokens."""
    if not request.prompt:
        raise BadRequest("the prompt is empty: it needs at least one token")
    if request.max_new_tokens < 1:
        raise BadRequest(f"max_new_tokens must be at least 1, not {request.max_new_tokens}")
    if len(request.prompt) >= capacity_tokens:
        raise BadRequest(
            f"the prompt has {len(request.prompt)} tokens and the context {capacity_tokens}: "
            "shorten the prompt so that at least one new token fits"
        )


def until_eos(tokens: list[int], eos_ids: frozenset[int]) -> tuple[list[int], bool]:
    """The tokens up to the first EOS, itself included, and whether there is one."""
    if eos_ids:
        for count, token in enumerate(tokens, 1):
            if token in eos_ids:
                return tokens[:count], True
    return tokens, False


class Decoder:
    """Decodes with a target session and, for lookahead k > 0, a drafter.  One request at a time."""

    def __init__(self, target: Session, drafter: Drafter | None, lookahead: int) -> None:
        if lookahead and drafter is None:
            raise ValueError("a lookahead above 0 needs a drafter")
        self.target = target
        self.drafter = drafter if lookahead else None
        self.lookahead = lookahead
        self.capacity_tokens = target.program.capacity_tokens
        if self.drafter is not None and self.drafter.capacity_tokens is not None:
            self.capacity_tokens = min(self.capacity_tokens, self.drafter.capacity_tokens)

    def rounds(self, request: DecodeRequest, statistics: Statistics) -> Iterator[Round]:
        """The rounds of a decoding, until EOS (emitted too), `max_new_tokens` or the end of the context.

        `statistics` is brought up to date before each yield; time the caller spends between rounds is not counted.
        """
        check_request(request, self.capacity_tokens)
        statistics.prefill_s += self._prefill(request.prompt)
        sequence = list(request.prompt)
        end = min(len(sequence) + request.max_new_tokens, self.capacity_tokens)
        rng = np.random.default_rng(request.seed)
        greedy, settings = request.sampling.greedy, request.sampling
        drafter, eos_ids = self.drafter, request.eos_ids
        lookahead = self.lookahead if request.lookahead is None else min(self.lookahead, request.lookahead)
        noted = None if request.logprobs is None else NotedLogits(self.target)
        target: Verifier = noted or self.target
        while len(sequence) < end:
            began = perf_counter()
            position = len(sequence) - 1
            count = min(lookahead, end - len(sequence) - 1)
            proposal = drafter.propose(sequence, count, settings, rng) if drafter is not None and count else NOTHING
            drafted_at = perf_counter()
            if greedy:
                kept, token = verify_greedy(target, sequence[-1], proposal.tokens, position)
            else:
                kept, token = verify_sampled(target, sequence[-1], proposal, position, settings, rng)
            verified_at = perf_counter()
            emitted, ended = until_eos([*proposal.tokens[:kept], token], eos_ids)
            if ended:
                end = 0
            sequence += emitted
            if drafter is not None and proposal.tokens:
                drafter.settle(kept)
            logprobs = () if noted is None else noted.logprobs(emitted, request.logprobs or 0)
            done = Round(emitted, len(proposal.tokens), min(kept, len(emitted)), logprobs)
            statistics.count_round(done)
            statistics.burst_s += drafted_at - began
            statistics.verify_s += verified_at - drafted_at
            statistics.decode_s += perf_counter() - began
            yield done

    def sibling(self) -> "Decoder":
        """A decoder of another sequence with the same programs; the two are never used at once."""
        return Decoder(self.target.sibling(), self.drafter.sibling() if self.drafter else None, self.lookahead)

    def decode(self, request: DecodeRequest) -> tuple[list[int], Statistics]:
        """All emitted tokens and the statistics of the decoding."""
        statistics = Statistics()
        tokens = [token for done in self.rounds(request, statistics) for token in done.tokens]
        return tokens, statistics

    def close(self) -> None:
        """Free target and drafter; may be called again."""
        self.target.close()
        if self.drafter is not None:
            self.drafter.close()

    def _prefill(self, prompt: Sequence[int]) -> float:
        began = perf_counter()
        prefill(self.target, prompt[:-1])
        if self.drafter is not None:
            self.drafter.start(prompt)
        return perf_counter() - began
