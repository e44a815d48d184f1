"""A draft that proposes tokens for several sequences at once, each behind what it has of it in its cache."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from autotune.runtime.batch_rows import Row, compute
from autotune.runtime.drafter import Proposal
from autotune.runtime.prefill import PREFILL_CHUNK_TOKENS
from autotune.runtime.sampled_burst import over_vocabulary
from autotune.runtime.session import BatchSession, Probabilities, SampledBurst
from autotune.sampling import SamplingSettings, distribution, draw_at

_FEW_PENDING = 2
"""What a round leaves to be cached at most: the target's own token and, if all were kept, the last drafted one."""


@dataclass
class Drafting:
    """One sequence as it is drafted."""

    tokens: list[int]
    """Of the sequence, the drafted ones at its end."""
    count: int
    """How many are to be drafted."""
    settings: SamplingSettings
    noise: Sequence[float]
    """`[count]`, a uniform number for each token that is drawn."""
    drawn: list[tuple[int, Probabilities]] = field(default_factory=list)
    """The row of the head that each token was, and the distribution it was drawn from."""


class BatchDrafter:
    """Drafts in lockstep with a batch session; knows how much of each sequence its caches hold."""

    def __init__(self, session: BatchSession) -> None:
        self.session = session
        self._cached_tokens = [0] * session.program.batch
        self._tokens: list[list[int]] = [[] for _ in self._cached_tokens]

    def start(self, sequence: int) -> None:
        """Begin another sequence at that place; its prompt is cached when it is first drafted behind."""
        self._cached_tokens[sequence], self._tokens[sequence] = 0, []

    def catch_up(self, sequence: int, tokens: list[int]) -> None:
        """Cache all of the sequence but its last token, unless a draft's first step can take what is missing."""
        self._tokens[sequence] = tokens
        while len(tokens) - self._cached_tokens[sequence] > _FEW_PENDING:
            end = min(self._cached_tokens[sequence] + PREFILL_CHUNK_TOKENS, len(tokens) - 1)
            row = Row(sequence, tokens[:end], self._cached_tokens[sequence])
            compute(self.session.greedy, self.session.program, [row], self._others({sequence}))
            self._cached_tokens[sequence] = end

    def propose(self, drafted: dict[int, Drafting]) -> dict[int, Proposal]:
        """The proposal for each sequence, whose drafted tokens are appended to its tokens."""
        for sequence, each in drafted.items():
            self.catch_up(sequence, each.tokens)
        lengths = {sequence: len(each.tokens) for sequence, each in drafted.items()}
        greedy = all(each.settings.greedy for each in drafted.values())
        for step in range(max((each.count for each in drafted.values()), default=0)):
            self._step({sequence: each for sequence, each in drafted.items() if each.count > step}, step, greedy)
        return {sequence: self._proposal(each, lengths[sequence]) for sequence, each in drafted.items()}

    def settle(self, sequence: int, length: int) -> None:
        """Learn that only the first `length` tokens of the sequence stayed of those it was last drafted behind."""
        self._cached_tokens[sequence] = min(self._cached_tokens[sequence], length)

    def _step(self, drafted: dict[int, Drafting], step: int, greedy: bool) -> None:
        """One more token for each."""
        program, ids = self.session.program, self.session.program.head_tokens
        rows = [Row(sequence, each.tokens, self._cached_tokens[sequence]) for sequence, each in drafted.items()]
        call = self.session.greedy if greedy else self.session.logits
        answers = compute(call, program, rows, self._others(drafted))
        for (sequence, each), answer in zip(drafted.items(), answers, strict=True):
            self._cached_tokens[sequence] = len(each.tokens)
            if greedy:
                each.tokens.append(int(answer[-1]))
                continue
            if each.settings.greedy:
                row = int(answer[-1].argmax())
            else:
                q = distribution(answer[-1], each.settings)
                row = draw_at(q, each.noise[step])
                each.drawn.append((row, q))
            each.tokens.append(row if ids is None else int(ids[row]))

    def _others(self, taken: set[int] | dict[int, Drafting]) -> list[Row]:
        """The other sequences, at what they have cached."""
        return [
            Row(sequence, tokens, min(self._cached_tokens[sequence], max(len(tokens) - 1, 0)))
            for sequence, tokens in enumerate(self._tokens)
            if sequence not in taken
        ]

    def _proposal(self, each: Drafting, length: int) -> Proposal:
        tokens = each.tokens[length:]
        if each.settings.greedy:
            return Proposal(tokens)
        program, drawn = self.session.program, each.drawn
        probabilities = [float(q[row]) for row, q in drawn]
        return Proposal(
            tokens, SampledBurst(tokens, probabilities, lambda place: over_vocabulary(program, drawn[place][1]))
        )
