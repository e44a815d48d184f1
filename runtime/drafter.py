"""The protocol of what proposes a round's tokens, and the drafter that is a model.

A drafter follows one sequence at a time: it is started with a prompt, proposes tokens behind the sequence round after
round, and is told after each how many of them were kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from autotune.runtime.prefill import extend, prefill
from autotune.runtime.session import SampledBurst, Session
from autotune.sampling import SamplingSettings


@dataclass(frozen=True)
class Proposal:
    """Tokens for the target to verify, and what verifying them needs to know of how they were drawn."""

    tokens: list[int]
    drawn: SampledBurst | None = None
    """How they were drawn; None: proposed greedily, for a greedy target to verify."""


NOTHING = Proposal([])

MOST_PENDING = 2
"""Tokens that a burst begins with at most: the target's own and, when all of a burst was kept, the last drafted one."""


class Drafter(Protocol):
    """Proposes the tokens that rounds verify."""

    capacity_tokens: int | None
    """Longest sequence it can follow; None: any."""

    def start(self, prompt: Sequence[int]) -> None:
        """Begin another sequence, which holds `prompt` (at least one token)."""

    def propose(
        self, sequence: Sequence[int], count: int, settings: SamplingSettings, rng: np.random.Generator
    ) -> Proposal:
        """At most `count` (at least 1) tokens behind `sequence`, which is the prompt and all that was emitted since.

        There may be fewer, or none, where the drafter expects nothing of more.  With settings that are not greedy,
        every token is drawn from the distribution that the proposal tells.
        """

    def settle(self, kept: int) -> None:
        """Learn that the first `kept` tokens of the latest proposal stayed; the next sequence tells what followed."""

    def sibling(self) -> "Drafter":
        """A drafter of the same kind for another sequence, which shares what can be shared."""

    def close(self) -> None:
        """Free what it holds; may be called again."""


class ModelDrafter:
    """A draft model that proposes as many tokens as it is asked for.

    Its session's cache holds the first `_length` tokens of the sequence.  What it lacks of what was emitted (the
    target's own token and, when all of a burst was kept, the last drafted one) is given to the next burst.  After
    rounds in which others proposed it lacks more, which it reads before.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.capacity_tokens: int | None = session.program.capacity_tokens
        self._length = 0
        self._proposed_behind = 0
        self._proposed = 0

    def start(self, prompt: Sequence[int]) -> None:
        """Cache all of the prompt but its last token."""
        prefill(self.session, prompt[:-1])
        self._length = len(prompt) - 1

    def propose(
        self, sequence: Sequence[int], count: int, settings: SamplingSettings, rng: np.random.Generator
    ) -> Proposal:
        """`count` tokens, drawn as the settings say."""
        pending = self._pending(sequence)
        self._proposed_behind, self._proposed = len(sequence), count
        if settings.greedy:
            return Proposal(self.session.burst(pending, self._length, count))
        noise = rng.random(count).tolist()
        burst = self.session.sampled_burst(pending, self._length, count, settings, noise)
        return Proposal(burst.tokens, burst)

    def settle(self, kept: int) -> None:
        """All but the last drafted token entered the cache; those that were not kept are overwritten later."""
        self._length = self._proposed_behind + min(kept, self._proposed - 1)

    def _pending(self, sequence: Sequence[int]) -> Sequence[int]:
        """What the cache lacks of the sequence, the last token at least; what a burst cannot be given is read first."""
        if len(sequence) - self._length > MOST_PENDING:
            extend(self.session, sequence[:-1], self._length)
            self._length = len(sequence) - 1
        return sequence[self._length :]

    def sibling(self) -> "ModelDrafter":
        """The same model for another sequence."""
        return ModelDrafter(self.session.sibling())

    def close(self) -> None:
        """Free the session."""
        self.session.close()
