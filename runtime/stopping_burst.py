"""Drafts a burst that ends where its own confidence says so, with a call for every step, for any session."""

from collections.abc import Sequence

import numpy as np

from autotune.runtime.sampled_burst import over_vocabulary
from autotune.runtime.session import Probabilities, SampledBurst, Session, StoppedBurst, Tokens
from autotune.sampling import SamplingSettings, distribution, draw_at
from autotune.stopping import Pace, StopRule


def stop_call_by_call(
    session: Session,
    tokens: Tokens,
    start: int,
    count: int,
    rule: StopRule,
    settings: SamplingSettings,
    noise: Sequence[float],
) -> StoppedBurst:
    """As `Session.stopping_burst`."""
    check_rule(count, rule)
    drafted: list[int] = []
    distributions: list[Probabilities] = []
    probabilities: list[float] = []
    ids, given, pace = session.program.head_tokens, tokens, Pace(rule)
    for step in range(count):
        logits = session.logits(given, start)[-1]
        start += len(given)
        if settings.greedy:
            row = int(logits.argmax())
            confidence = 1.0 / float(np.exp(logits - logits[row]).sum())
        else:
            q = distribution(logits, settings)
            row, confidence = draw_at(q, noise[step]), float(q.max())
            distributions.append(q)
            probabilities.append(float(q[row]))
        given = [row if ids is None else int(ids[row])]
        drafted += given
        if not pace.goes_on(confidence):
            break
    if settings.greedy:
        return StoppedBurst(drafted, pace.survival)
    drawn = SampledBurst(drafted, probabilities, lambda place: over_vocabulary(session.program, distributions[place]))
    return StoppedBurst(drafted, pace.survival, drawn)


def check_rule(count: int, rule: StopRule) -> None:
    """ValueError unless the rule has a bound for every one of so many steps."""
    if not 1 <= count <= rule.most:
        raise ValueError(f"a burst that may stop drafts 1 … {rule.most} tokens by its rule, not {count}")
