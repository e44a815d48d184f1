"""Two drafters in turn: the text itself proposes at no cost; where it is silent, a draft model is asked."""

from collections.abc import Sequence

import numpy as np

from autotune.runtime.drafter import Drafter, Proposal
from autotune.runtime.lookup import LookupDrafter
from autotune.sampling import SamplingSettings


class LookupFirstDrafter:
    """Proposes what a lookup finds; where it finds nothing, what a draft proposes.

    A draft that was not asked for some rounds catches up when it is, with one call for all it missed.
    """

    def __init__(self, lookup: LookupDrafter, found: int, draft: Drafter, drafted: int) -> None:
        """found, drafted: tokens that each of the two proposes at most."""
        self.capacity_tokens = draft.capacity_tokens
        self._lookup, self._found = lookup, found
        self._draft, self._drafted = draft, drafted
        self._asked = False
        """Whether the latest proposal is the draft's."""

    def start(self, prompt: Sequence[int]) -> None:
        """Both read the prompt."""
        self._lookup.start(prompt)
        self._draft.start(prompt)

    def propose(
        self, sequence: Sequence[int], count: int, settings: SamplingSettings, rng: np.random.Generator
    ) -> Proposal:
        """What is found, or else what the draft proposes."""
        proposal = self._lookup.propose(sequence, min(count, self._found), settings, rng)
        self._asked = not proposal.tokens
        if self._asked:
            proposal = self._draft.propose(sequence, min(count, self._drafted), settings, rng)
        return proposal

    def settle(self, kept: int) -> None:
        """Tell the one who proposed."""
        (self._draft if self._asked else self._lookup).settle(kept)

    def sibling(self) -> "LookupFirstDrafter":
        """The same two for another sequence."""
        return LookupFirstDrafter(self._lookup.sibling(), self._found, self._draft.sibling(), self._drafted)

    def close(self) -> None:
        """Free the draft."""
        self._draft.close()
