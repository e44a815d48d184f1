"""The decoding loop: a target, perhaps a draft, and the tokens they emit round by round.

Invariant between rounds: `sequence` holds the prompt and everything emitted; the target's cache holds all of it but
the last token, the draft's cache its first `draft_length` tokens.  The prompt is therefore prefilled without its last
token, so that every emitted token, the first included, comes from a round, just as the acceptance mathematics counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from autotune.errors import BadRequest
from autotune.runtime.session import SampledBurst, Session
from autotune.runtime.speculate import verify_greedy, verify_sampled
from autotune.sampling import SamplingSettings

PREFILL_CHUNK_TOKENS = 64


@dataclass(frozen=True)
class DecodeRequest:
    """What to decode: `prompt` token ids (at least one), how many tokens at most, and how to draw them."""

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: SamplingSettings = SamplingSettings()
    seed: int = 0
    eos_ids: frozenset[int] = frozenset()


@dataclass
class Statistics:
    """Counts and seconds of one or more decodings; ratios are derived, so that statistics can be added up."""

    tokens: int = 0
    rounds: int = 0
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

    def count_round(self, emitted: int) -> None:
        """Count one round that emitted so many tokens."""
        self.tokens += emitted
        self.rounds += 1
        self.emitted += [0] * (emitted - len(self.emitted))
        self.emitted[emitted - 1] += 1

    def add(self, other: "Statistics") -> None:
        """Pool another decoding's counts and seconds into this one."""
        self.emitted += [0] * (len(other.emitted) - len(self.emitted))
        for index, count in enumerate(other.emitted):
            self.emitted[index] += count
        for name in ("tokens", "rounds", "prefill_s", "burst_s", "verify_s", "decode_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Decoder:
    """Decodes with a target session and, for lookahead k > 0, a draft session.  One request at a time."""

    def __init__(self, target: Session, draft: Session | None, lookahead: int) -> None:
        if lookahead and draft is None:
            raise ValueError("a lookahead above 0 needs a draft")
        self.target = target
        self.draft = draft if lookahead else None
        self.lookahead = lookahead
        capacities = [session.program.capacity_tokens for session in (target, self.draft) if session is not None]
        self.capacity_tokens = min(capacities)

    def rounds(self, request: DecodeRequest, statistics: Statistics) -> Iterator[list[int]]:
        """The tokens each round emits, until EOS (emitted too), `max_new_tokens` or the end of the context.

        `statistics` is brought up to date before each yield; time the caller spends between rounds is not counted.
        """
        self._check(request)
        statistics.prefill_s += self._prefill(request.prompt[:-1])
        sequence = list(request.prompt)
        draft_length = len(sequence) - 1
        end = min(len(sequence) + request.max_new_tokens, self.capacity_tokens)
        rng = np.random.default_rng(request.seed)
        greedy, settings = request.sampling.greedy, request.sampling
        target, draft, eos_ids = self.target, self.draft, request.eos_ids
        while len(sequence) < end:
            began = perf_counter()
            position = len(sequence) - 1
            count = min(self.lookahead, end - len(sequence) - 1)
            drafted: list[int] = []
            burst: SampledBurst | None = None
            drafted_at = began
            if draft is not None and count:
                pending = sequence[draft_length:]
                if greedy:
                    drafted = draft.burst(pending, draft_length, count)
                else:
                    burst = draft.sampled_burst(pending, draft_length, count, settings, rng.random(count).tolist())
                    drafted = burst.tokens
                drafted_at = perf_counter()
            if greedy:
                kept, token = verify_greedy(target, sequence[-1], drafted, position)
            else:
                kept, token = verify_sampled(target, sequence[-1], burst, position, settings, rng)
            verified_at = perf_counter()
            emitted = [*drafted[:kept], token]
            stop = next((n for n, emitted_id in enumerate(emitted, 1) if emitted_id in eos_ids), 0) if eos_ids else 0
            if stop:
                emitted, end = emitted[:stop], 0
            sequence += emitted
            if drafted:  # all but the last drafted token entered the draft's cache
                draft_length = position + 1 + min(kept, count - 1)
            statistics.count_round(len(emitted))
            statistics.burst_s += drafted_at - began
            statistics.verify_s += verified_at - drafted_at
            statistics.decode_s += perf_counter() - began
            yield emitted

    def decode(self, request: DecodeRequest) -> tuple[list[int], Statistics]:
        """All emitted tokens and the statistics of the decoding."""
        statistics = Statistics()
        tokens = [token for emitted in self.rounds(request, statistics) for token in emitted]
        return tokens, statistics

    def close(self) -> None:
        """Free both sessions; may be called again."""
        for session in (self.target, self.draft):
            if session is not None:
                session.close()

    def _check(self, request: DecodeRequest) -> None:
        if not request.prompt:
            raise BadRequest("the prompt is empty: it needs at least one token")
        if request.max_new_tokens < 1:
            raise BadRequest(f"max_new_tokens must be at least 1, not {request.max_new_tokens}")
        if len(request.prompt) >= self.capacity_tokens:
            raise BadRequest(
                f"the prompt has {len(request.prompt)} tokens and the context {self.capacity_tokens}: "
                "shorten the prompt so that at least one new token fits"
            )

    def _prefill(self, tokens: Sequence[int]) -> float:
        began = perf_counter()
        for session in (self.target, self.draft):
            if session is not None:
                prefill(session, tokens)
        return perf_counter() - began


def prefill(session: Session, tokens: Sequence[int]) -> None:
    """Fill the session's cache with tokens from position 0, in chunks that bound the logits' memory."""
    for start in range(0, len(tokens), PREFILL_CHUNK_TOKENS):
        session.greedy(tokens[start : start + PREFILL_CHUNK_TOKENS], start)
