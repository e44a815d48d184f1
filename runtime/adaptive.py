"""A draft model that proposes as many tokens as pay, by its own confidence in them."""

from collections.abc import Sequence

import numpy as np

from autotune.runtime.drafter import NOTHING, ModelDrafter, Proposal
from autotune.runtime.session import SampledBurst, Session
from autotune.sampling import SamplingSettings
from autotune.stopping import AdaptivePlan, stop_rule


class AdaptiveDrafter(ModelDrafter):
    """Drafts until another token is not expected to pay (see `autotune.stopping`), and perhaps proposes nothing.

    What was drafted but is not proposed has entered the cache behind the sequence, where the next burst overwrites it.
    With other settings than the plan's, every burst has the plan's fixed lookahead.
    """

    def __init__(self, session: Session, plan: AdaptivePlan) -> None:
        super().__init__(session)
        self.plan = plan
        self._rule = stop_rule(plan)

    def propose(
        self, sequence: Sequence[int], count: int, settings: SamplingSettings, rng: np.random.Generator
    ) -> Proposal:
        """At most `count` tokens, drawn as the settings say; none where not even the first is worth verifying."""
        if settings != self.plan.sampling:
            return super().propose(sequence, min(count, self.plan.lookahead), settings, rng)
        count = min(count, self._rule.most)
        noise = [] if settings.greedy else rng.random(count).tolist()
        pending = self._pending(sequence)
        burst = self.session.stopping_burst(pending, self._length, count, self._rule, settings, noise)
        drafted = len(burst.tokens)
        proposed = self._rule.proposed(drafted, burst.survival)
        if not proposed:
            self._length = len(sequence)  # all of it is cached, and nothing behind it is of use
            return NOTHING
        self._proposed_behind, self._proposed = len(sequence), drafted
        return Proposal(burst.tokens[:proposed], _beginning(burst.drawn, proposed))

    def sibling(self) -> "AdaptiveDrafter":
        """The same for another sequence."""
        return AdaptiveDrafter(self.session.sibling(), self.plan)


def _beginning(drawn: SampledBurst | None, count: int) -> SampledBurst | None:
    if drawn is None or count == len(drawn.tokens):
        return drawn
    return SampledBurst(drawn.tokens[:count], drawn.probabilities[:count], drawn.distribution)
