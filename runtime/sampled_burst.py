"""Draws a burst from the draft's distribution with a call for every step, for any session."""

from collections.abc import Sequence

import numpy as np

from autotune.program import Program
from autotune.runtime.session import Probabilities, SampledBurst, Session, Tokens
from autotune.sampling import SamplingSettings, distribution, draw_at


def draw_call_by_call(
    session: Session, tokens: Tokens, start: int, count: int, settings: SamplingSettings, noise: Sequence[float]
) -> SampledBurst:
    """`count` tokens drafted one after the other behind `tokens` (at `start`), each from one number of `noise`."""
    if count < 1:
        raise ValueError(f"a burst drafts at least one token, not {count}")
    drafted: list[int] = []
    distributions: list[Probabilities] = []
    probabilities: list[float] = []
    ids = session.program.head_tokens
    given = tokens
    for uniform in noise[:count]:
        q = distribution(session.logits(given, start)[-1], settings)
        row = draw_at(q, uniform)
        start += len(given)
        given = [row if ids is None else int(ids[row])]
        drafted += given
        distributions.append(q)
        probabilities.append(float(q[row]))
    return SampledBurst(drafted, probabilities, lambda place: over_vocabulary(session.program, distributions[place]))


def over_vocabulary(program: Program, probabilities: Probabilities) -> Probabilities:
    """Probabilities `[vocab]` from those of the head's rows `[head_rows]`: 0 for what a trimmed head cannot emit."""
    ids = program.head_tokens
    if ids is None:
        return probabilities
    whole = np.zeros(program.shape.vocab)
    whole[ids] = probabilities
    return whole
