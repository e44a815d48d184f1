"""Drafting without a model: what followed when the end of the text last occurred is proposed again.

Two indexes find that earlier occurrence.  Both are read token by token, at constant work each.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from autotune.candidate import Lookup, LookupKind
from autotune.runtime.drafter import NOTHING, Proposal
from autotune.runtime.session import SampledBurst
from autotune.sampling import SamplingSettings


class Match(NamedTuple):
    """An earlier occurrence of the text's last tokens."""

    length: int
    """Tokens that agree; 0: there is none."""
    behind: int
    """Place of the token behind the earlier occurrence."""


NO_MATCH = Match(0, 0)


class Index(Protocol):
    """What has been read, arranged so that its own end is found in it."""

    def extend(self, token: int) -> None:
        """Read one more token."""

    def match(self) -> Match:
        """The longest end of what was read that occurred before, as far as this index knows."""


class LookupDrafter:
    """Proposes what followed an earlier occurrence of the text's end; nothing if there is none.

    A continuation that reaches the end of the text goes on into the proposal itself, as loops do.  What is proposed
    depends on the text alone, so that its distribution q is certain of every token: under sampling a token x is
    accepted with probability p(x), and what replaces a rejected one is drawn from p without x.
    """

    def __init__(self, make_index: Callable[[], Index], vocab: int, shortest_match: int = 1) -> None:
        """shortest_match: tokens that must agree before anything is proposed."""
        self.capacity_tokens: int | None = None
        self._make_index = make_index
        self._vocab = vocab
        self._shortest_match = shortest_match
        self._index = make_index()
        self._read = 0

    def start(self, prompt: Sequence[int]) -> None:
        """Read the prompt."""
        self._index, self._read = self._make_index(), 0
        self._catch_up(prompt)

    def propose(
        self, sequence: Sequence[int], count: int, settings: SamplingSettings, rng: np.random.Generator
    ) -> Proposal:
        """`count` tokens, or none."""
        tokens = self.continuation(sequence, count)
        if not tokens:
            return NOTHING
        if settings.greedy:
            return Proposal(tokens)
        return Proposal(tokens, SampledBurst(tokens, [1.0] * len(tokens), lambda place: self._certain(tokens[place])))

    def continuation(self, sequence: Sequence[int], count: int) -> list[int]:
        """What would be proposed behind the sequence."""
        self._catch_up(sequence)
        match = self._index.match()
        if match.length < self._shortest_match:
            return []
        known = sequence[match.behind : match.behind + count]
        tokens = list(known)
        for place in range(count - len(known)):
            tokens.append(tokens[place])
        return tokens

    def settle(self, kept: int) -> None:
        """Nothing: the next sequence tells what stayed."""

    def sibling(self) -> "LookupDrafter":
        """The same for another text."""
        return LookupDrafter(self._make_index, self._vocab, self._shortest_match)

    def close(self) -> None:
        """Nothing is held."""

    def _catch_up(self, sequence: Sequence[int]) -> None:
        for token in sequence[self._read :]:
            self._index.extend(token)
        self._read = len(sequence)

    def _certain(self, token: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        distribution = np.zeros(self._vocab)
        distribution[token] = 1.0
        return distribution


def open_lookup(lookup: Lookup, vocab: int) -> LookupDrafter:
    """The drafter of this kind, for a target with so many tokens."""
    shortest, longest = lookup.shortest_match, lookup.longest_match
    if lookup.kind is LookupKind.SUFFIX_AUTOMATON:
        return LookupDrafter(SuffixAutomaton, vocab, shortest)
    return LookupDrafter(lambda: NGrams(longest or shortest, shortest), vocab, shortest)


class NGrams:
    """Prompt lookup (Saxena 2023): the last n tokens' latest earlier occurrence, n from the largest to the smallest."""

    def __init__(self, largest: int = 4, smallest: int = 1) -> None:
        """largest, smallest: n, as vLLM's `prompt_lookup_max` and `prompt_lookup_min`."""
        self._sizes = range(largest, smallest - 1, -1)
        self._tokens: list[int] = []
        self._behind: dict[tuple[int, ...], int] = {}
        """Place behind every n-gram's latest occurrence that something follows."""

    def extend(self, token: int) -> None:
        """Read one more token: what was the end until now has a successor."""
        place = len(self._tokens)
        for size in self._sizes:
            if size <= place:
                self._behind[tuple(self._tokens[place - size :])] = place
        self._tokens.append(token)

    def match(self) -> Match:
        """The largest n-gram at the end that occurred before."""
        for size in self._sizes:
            if size < len(self._tokens):
                behind = self._behind.get(tuple(self._tokens[-size:]))
                if behind is not None:
                    return Match(size, behind)
        return NO_MATCH


_REFRESHED = 8
"""Ends of the text, longest first, whose latest occurrence is brought up to date with every token."""


class SuffixAutomaton:
    """The longest end of the text that occurred before, whatever its length, found online.

    The automaton of all substrings (Blumer et al. 1985) grows by a token in amortised constant time; the suffix link of
    its last state is the longest end that also occurs earlier.  Its latest occurrence is found as long as it was among
    the `_REFRESHED` longest repeated ends then; otherwise an older one is.
    """

    def __init__(self) -> None:
        self._next: list[dict[int, int]] = [{}]
        self._link: list[int] = [-1]
        self._length: list[int] = [0]
        self._behind: list[int] = [0]
        """Place behind an occurrence of every state's strings."""
        self._last = 0
        self._read = 0
        self._match = NO_MATCH

    def extend(self, token: int) -> None:
        """Read one more token."""
        self._read += 1
        current = self._new_state({}, 0, self._length[self._last] + 1, self._read)
        state = self._last
        while state >= 0 and token not in self._next[state]:
            self._next[state][token] = current
            state = self._link[state]
        if state >= 0:
            self._link[current] = self._ending_in(state, token)
        self._last = current
        self._refresh()

    def match(self) -> Match:
        """The longest end that occurred before."""
        return self._match

    def _ending_in(self, state: int, token: int) -> int:
        """The state of the strings of `state` followed by the token: the one it leads to, or a clone cut out of it."""
        target = self._next[state][token]
        if self._length[target] == self._length[state] + 1:
            return target
        clone = self._new_state(
            dict(self._next[target]), self._link[target], self._length[state] + 1, self._behind[target]
        )
        self._link[target] = clone
        while state >= 0 and self._next[state].get(token) == target:
            self._next[state][token] = clone
            state = self._link[state]
        return clone

    def _new_state(self, following: dict[int, int], link: int, length: int, behind: int) -> int:
        self._next.append(following)
        self._link.append(link)
        self._length.append(length)
        self._behind.append(behind)
        return len(self._next) - 1

    def _refresh(self) -> None:
        """Take the match from before, then tell the longest ends where they occurred now."""
        state = self._link[self._last]
        self._match = Match(self._length[state], self._behind[state])
        for _ in range(_REFRESHED):
            if state <= 0:
                break
            self._behind[state] = self._read
            state = self._link[state]
