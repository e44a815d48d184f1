"""Decodes several requests together: a target and perhaps a draft, each with a cache for every sequence.

Rounds are those of `autotune.runtime.decode`, all sequences' at once: the draft takes its steps in lockstep, the target
verifies all bursts in one call, and each sequence keeps what it accepts (its caches roll back on their own).  A request
that ends leaves its place to the next one that waits.  Where none waits, later calls are given only as many places as
the program has a number for (`Program.batches`).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.errors import BadRequest
from autotune.runtime.batch_drafting import BatchDrafter, Drafting
from autotune.runtime.batch_rows import Row, compute
from autotune.runtime.decode import DecodeRequest, Round, Statistics, check_request, until_eos
from autotune.runtime.drafter import NOTHING, Proposal
from autotune.runtime.prefill import PREFILL_CHUNK_TOKENS
from autotune.runtime.session import BatchSession, Tokens
from autotune.runtime.speculate import Verdict, verify_greedy, verify_sampled

Lookahead = Callable[[int], int]
"""k while that many sequences are decoded at once."""


@dataclass
class BatchStatistics(Statistics):
    """Pooled counts of all sequences, and the seconds that pass for all of them at once.

    A round is one sequence's, so that `tokens_per_round` is TAR, while `tokens_per_s` is that of all together.
    """

    batches: int = 0
    """Rounds of the batch."""


@dataclass
class _Place:
    """A request that is being decoded."""

    index: int
    request: DecodeRequest
    tokens: list[int]
    """The prompt, what was emitted, and during a round what is drafted."""
    length: int
    """Tokens without those drafted; the target's cache has all of them but the last."""
    end: int
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.request.seed)


class _Computed:
    """What a call of the batch answered for one sequence, as its verification asks for it."""

    def __init__(self, answers: NDArray[Any]) -> None:
        self._answers = answers

    def logits(self, tokens: Tokens, start: int) -> NDArray[np.float32]:
        return self._answers

    def greedy(self, tokens: Tokens, start: int) -> NDArray[np.int64]:
        chosen: NDArray[np.int64] = self._answers if self._answers.ndim == 1 else self._answers.argmax(-1)
        return chosen


class BatchDecoder:
    """Decodes as many requests at once as its programs have caches; one list of requests at a time.

    lookahead: k, or what says it for a number of sequences; it may change between rounds.
    """

    def __init__(self, target: BatchSession, draft: BatchSession | None, lookahead: int | Lookahead) -> None:
        if draft is None and lookahead:
            raise ValueError("a lookahead above 0 needs a draft")
        if draft is not None and draft.program.batches != target.program.batches:
            raise ValueError(f"target {target.program.batches} and draft {draft.program.batches} take other batches")
        self.target = target
        self.draft = draft
        self.lookahead: Lookahead = lookahead if callable(lookahead) else lambda active: lookahead
        self.capacity_tokens = target.program.capacity_tokens
        if draft is not None:
            self.capacity_tokens = min(self.capacity_tokens, draft.program.capacity_tokens)
        self._drafter = None if draft is None else BatchDrafter(draft)
        self._places: list[_Place | None] = [None] * target.program.batch

    def rounds(self, requests: Sequence[DecodeRequest], statistics: BatchStatistics) -> Iterator[tuple[int, Round]]:
        """The rounds of all requests, each with the request's index, as they end.

        `statistics` is brought up to date before a batch's rounds are yielded; the caller's time is not counted.
        """
        for request in requests:
            check_request(request, self.capacity_tokens)
            if request.logprobs is not None:
                raise BadRequest("log-probabilities are told of one sequence at a time: decode without a batch")
        waiting = deque(enumerate(requests))
        self._places = [None] * len(self._places)
        while True:
            began = perf_counter()
            self._leave_and_enter(waiting)
            statistics.prefill_s += perf_counter() - began
            active = {number: place for number, place in enumerate(self._places) if place is not None}
            if not active:
                return
            done = self._round(active, statistics)
            yield from done

    def stop(self, index: int) -> None:
        """End the request of that index: its place is free from the next round on."""
        for place in self._places:
            if place is not None and place.index == index:
                place.end = 0

    def decode(self, requests: Sequence[DecodeRequest]) -> tuple[list[list[int]], BatchStatistics]:
        """All emitted tokens of each request, and the statistics of all."""
        statistics = BatchStatistics()
        tokens: list[list[int]] = [[] for _ in requests]
        for index, done in self.rounds(requests, statistics):
            tokens[index] += done.tokens
        return tokens, statistics

    def close(self) -> None:
        """Free target and draft; may be called again."""
        self.target.close()
        if self.draft is not None:
            self.draft.close()

    def _leave_and_enter(self, waiting: deque[tuple[int, DecodeRequest]]) -> None:
        """Free the places of what ended, and fill free ones with what waits."""
        entered = []
        for number, place in enumerate(self._places):
            if place is not None and place.length < place.end:
                continue
            self._places[number] = None
            if waiting:
                index, request = waiting.popleft()
                prompt = list(request.prompt)
                end = min(len(prompt) + request.max_new_tokens, self.capacity_tokens)
                place = _Place(index, request, prompt, len(prompt), end)
                self._prefill(number, place)
                self._places[number] = place
                entered.append((number, place))
        if self._drafter is not None and self._lookahead():  # otherwise when it is first asked for proposals
            for number, place in entered:
                self._drafter.catch_up(number, place.tokens)

    def _lookahead(self) -> int:
        """k now."""
        active = sum(place is not None for place in self._places)
        return self.lookahead(active) if active and self.draft is not None else 0

    def _prefill(self, number: int, place: _Place) -> None:
        """Cache all of a prompt but its last token in the target."""
        for start in range(0, place.length - 1, PREFILL_CHUNK_TOKENS):
            end = min(start + PREFILL_CHUNK_TOKENS, place.length - 1)
            self._ask_target([Row(number, place.tokens[:end], start)], greedy=True)
        if self._drafter is not None:
            self._drafter.start(number)

    def _round(self, active: dict[int, _Place], statistics: BatchStatistics) -> list[tuple[int, Round]]:
        """One round of every sequence."""
        began = perf_counter()
        proposals = self._propose(active)
        drafted_at = perf_counter()
        rows = [Row(number, place.tokens, place.length - 1) for number, place in active.items()]
        greedy = all(place.request.sampling.greedy for place in active.values())
        answers = self._ask_target(rows, greedy)
        verdicts = [
            _verify(place, proposals.get(number, NOTHING), _Computed(answer))
            for (number, place), answer in zip(active.items(), answers, strict=True)
        ]
        verified_at = perf_counter()
        done = []
        for (number, place), verdict in zip(active.items(), verdicts, strict=True):
            ended = self._keep(number, place, proposals.get(number, NOTHING), verdict)
            statistics.count_round(ended)
            done.append((place.index, ended))
        statistics.batches += 1
        statistics.burst_s += drafted_at - began
        statistics.verify_s += verified_at - drafted_at
        statistics.decode_s += perf_counter() - began
        return done

    def _propose(self, active: dict[int, _Place]) -> dict[int, Proposal]:
        """The proposals of the sequences that have any."""
        lookahead = self._lookahead()
        drafted = {}
        for number, place in active.items():
            asked = place.request.lookahead
            count = min(lookahead if asked is None else min(lookahead, asked), place.end - place.length - 1)
            if count:
                settings = place.request.sampling
                noise = () if settings.greedy else place.rng.random(count).tolist()
                drafted[number] = Drafting(place.tokens, count, settings, noise)
        return self._drafter.propose(drafted) if self._drafter is not None and drafted else {}

    def _ask_target(self, rows: list[Row], greedy: bool) -> list[NDArray[Any]]:
        """The target's arg-max tokens or logits behind the rows' tokens."""
        taken = {row.sequence for row in rows}
        spare = [
            Row(number, place.tokens, place.length - 1) if place else Row(number, [], 0)
            for number, place in enumerate(self._places)
            if number not in taken
        ]
        return compute(self.target.greedy if greedy else self.target.logits, self.target.program, rows, spare)

    def _keep(self, number: int, place: _Place, proposal: Proposal, verdict: Verdict) -> Round:
        """Make the verdict the sequence's: kept tokens and the target's own behind them, up to EOS."""
        emitted, ended = until_eos([*proposal.tokens[: verdict.kept], verdict.token], place.request.eos_ids)
        if self._drafter is not None:
            self._drafter.settle(number, place.length + verdict.kept)
        place.tokens[place.length :] = emitted
        place.length += len(emitted)
        if ended:
            place.end = 0
        return Round(emitted, len(proposal.tokens), min(verdict.kept, len(emitted)))


def _verify(place: _Place, proposal: Proposal, answered: _Computed) -> Verdict:
    """The verdict on one sequence's proposal; its last certain token is the first one that was given."""
    last, position, settings = place.tokens[place.length - 1], place.length - 1, place.request.sampling
    if settings.greedy:
        return verify_greedy(answered, last, proposal.tokens, position)
    return verify_sampled(answered, last, proposal, position, settings, place.rng)
