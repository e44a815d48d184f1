"""What a run maximises where its workload has categories: the mean over all text, a weighted mean, or the worst one.

Throughput is tokens per round over seconds per round, and a round's seconds depend on the programs and on k, not on
what is written: for a draft at a lookahead they are the same in every category.  So an objective over categories is a
functional of the tokens per round alone.  Let category c have T_c tokens in R_c = Σ s_t expected rounds (see
`autotune.acceptance`), and TAR_c = T_c / R_c.

* mean: Σ_c T_c / Σ_c R_c, the pooled counts: every token of the workload's text counts alike.
* weighted: w_c is the category's share of the *tokens* that one's traffic emits, Σ w_c = 1.  N tokens then take
  Σ_c w_c N / TAR_c rounds, for it is rounds (seconds) per token that average over tokens, not tokens per round:

      TAR_w = 1 / Σ_c (w_c / TAR_c)

  With w_c = T_c / Σ T it is the mean.
* worst: min_c TAR_c, what the text that is hardest to draft gets.

The same holds of tokens per second that were measured, with seconds instead of rounds.  Intervals resample traces: of
the mean among all, as the mixture is a chance too; of the others within each category, as their mixture is given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from autotune.results import Acceptance

_Array = NDArray[np.float64]


class ObjectiveKind(StrEnum):
    """How the categories of a workload count."""

    MEAN = "mean"
    WORST = "worst"
    WEIGHTED = "weighted"


@dataclass(frozen=True)
class Objective:
    """A functional of what is counted by category; see the module."""

    kind: ObjectiveKind = ObjectiveKind.MEAN
    weights: tuple[tuple[str, float], ...] = ()
    """Of a weighted objective: categories with their shares of the tokens, positive and 1 together."""

    def tokens_per_round(self, acceptance: Acceptance, lookahead: int) -> float:
        """TAR(k) by which drafts are compared."""
        tokens, rounds = counts(acceptance, lookahead)
        return float(self.rate(tokens, rounds, acceptance.categories))

    def rate(self, above: _Array, below: _Array, categories: Sequence[str]) -> _Array:
        """What ratios of counts `[…, n]` of n texts (tokens above rounds, or above seconds) come to, as `[…]`.

        categories: `[n]` of the texts; a weighted objective needs all of its own among them.
        """
        if self.kind is ObjectiveKind.MEAN:
            return np.asarray(above.sum(-1) / below.sum(-1))
        names, rates = rates_by_category(above, below, categories)
        if self.kind is ObjectiveKind.WORST:
            return np.asarray(rates.min(-1))
        columns = [names.index(name) for name, _ in self.weights]
        return np.asarray(1.0 / (np.array([weight for _, weight in self.weights]) / rates[..., columns]).sum(-1))

    def speedup(
        self, tokens: _Array, seconds: _Array, tokens_alone: _Array, seconds_alone: _Array, categories: Sequence[str]
    ) -> _Array:
        """How much faster one way of decoding texts is than another, from counts `[…, n]`, as `[…]`.

        The worst is the smallest speed-up of any category, which need not be that of the slowest one.
        """
        if self.kind is not ObjectiveKind.WORST:
            return self.rate(tokens, seconds, categories) / self.rate(tokens_alone, seconds_alone, categories)
        _, rates = rates_by_category(tokens, seconds, categories)
        _, alone = rates_by_category(tokens_alone, seconds_alone, categories)
        return np.asarray((rates / alone).min(-1))

    def resamples(self, categories: Sequence[str], texts: int, count: int, seed: int) -> NDArray[np.int64]:
        """Indices `[count, texts]` of bootstrap resamples of the texts; column i keeps text i's category in strata."""
        rng = np.random.default_rng(seed)
        if self.kind is ObjectiveKind.MEAN:
            return rng.integers(0, texts, (count, texts))
        picks = np.empty((count, texts), np.int64)
        labels = _labels(categories, texts)
        for name in sorted(set(categories)):
            members = np.flatnonzero(labels == name)
            picks[:, members] = members[rng.integers(0, len(members), (count, len(members)))]
        return picks


MEAN = Objective()
WORST = Objective(ObjectiveKind.WORST)


def weighted(weights: Mapping[str, float]) -> Objective:
    """The weighted mean with these weights of categories, not negative and not all zero; they need not add up to 1."""
    total = sum(weights.values())
    shares = tuple((name, weight / total) for name, weight in sorted(weights.items()) if weight > 0)
    return Objective(ObjectiveKind.WEIGHTED, shares)


def only(category: str) -> Objective:
    """What one category alone comes to."""
    return weighted({category: 1.0})


def counts(acceptance: Acceptance, lookahead: int) -> tuple[_Array, _Array]:
    """Tokens and expected rounds `[traces]` with lookahead k."""
    return np.asarray(acceptance.tokens, np.float64), np.array([row[lookahead] for row in acceptance.rounds])


def rates_by_category(above: _Array, below: _Array, categories: Sequence[str]) -> tuple[list[str], _Array]:
    """The categories `[C]` in alphabetical order, and Σ above / Σ below `[…, C]` of each."""
    labels, names = _labels(categories, above.shape[-1]), sorted(set(categories))
    members = np.array([labels == name for name in names], np.float64).T
    return names, np.asarray((above @ members) / (below @ members))


def _labels(categories: Sequence[str], texts: int) -> NDArray[np.object_]:
    if len(categories) != texts:
        raise ValueError(f"{len(categories)} categories were given for {texts} texts")
    return np.array(categories, dtype=object)
