"""Losses of a draft's predictions against what is known of the target's, at positions one by one.

A drafted token is accepted with probability Σ min(p, q) = 1 - TV(p, q) (Leviathan et al. 2211.17192), p the target's
distribution and q the draft's, both as the workload draws: total variation is what counts, but its gradient is weak
while the two are far apart.  Cross-entropy and Kullback-Leibler divergence are the usual stand-ins (DistillSpec, Zhou
et al. 2310.08461, compares them); the logarithm of the acceptance, and a mixture that moves from KL to TV as acceptance
grows, are from Samarin et al. 2602.23881.

Of p only the likeliest tokens are known.  What it gives to all others is one lumped token more, for which q is lumped
too: that makes no divergence larger, so each of these is a lower bound of the true one.  Where only one token is known
(the target's arg-max, or what it drew), p is certain of that: then KL and the log-acceptance are cross-entropy, and TV
is 1 - q(token).

Where the workload filters by top-k or top-p, p is filtered and q is not, although the draft will be: q's own filter
would hide from the loss every token that it drops wrongly.  As it mostly moves mass from tokens that p drops as well,
the true acceptance is the higher one.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

from autotune.proxy.batches import IGNORED
from autotune.proxy.loss_choice import Loss

_LEAST = 1e-6
"""Acceptance below which its logarithm does not fall further."""
_ROUNDINGS = 8
"""What p gives to the lumped rest is a difference from 1, so uncertain by so many roundings: what q gives to it counts
as this much at least."""
_LOG_NOTHING = -1e4
"""Logarithm of a probability that is 0, but finite, as gradients must be."""
_SHARPNESS = 0.5
"""Temperature, times the workload's own, at which sharpened distributions are compared."""
_HYBRID_RATE = 3.0
"""How fast, with growing acceptance, the mixture of KL and TV turns to TV."""


@dataclass(frozen=True)
class Lesson:
    """What is known of the target's distribution at N positions (or at `[sequences, length]` of them)."""

    labels: Tensor
    """`[N]` int64 the target's own token; `IGNORED` where it is unknown."""
    tokens: Tensor | None = None
    """`[N, M]` int64 the target's likeliest tokens, -1 behind the last; None where only labels are known."""
    logprobs: Tensor | None = None
    """`[N, M]` their log-probabilities, -inf behind the last."""

    def known_to(self, loss: Loss) -> Tensor:
        """`[N]` bool: positions where there is anything to learn; cross-entropy knows labels only."""
        labelled = self.labels != IGNORED
        return labelled if self.tokens is None or loss is Loss.CE else labelled | (self.tokens[..., 0] >= 0)

    def at(self, positions: Tensor) -> "Lesson":
        """The lesson of some positions `[N]` (bool)."""
        if self.tokens is None or self.logprobs is None:
            return Lesson(self.labels[positions])
        return Lesson(self.labels[positions], self.tokens[positions], self.logprobs[positions])

    def sharpened(self, temperature: float) -> "Lesson":
        """The lesson of p^(1 / temperature), normalised over the known tokens: little is left of others."""
        if self.tokens is None or self.logprobs is None:
            return self
        scaled = self.logprobs / temperature
        normalised = scaled - scaled.logsumexp(-1, keepdim=True)
        return Lesson(self.labels, self.tokens, torch.where(self.tokens < 0, -torch.inf, normalised))

    def distribution(self) -> tuple[Tensor, Tensor]:
        """`[N, M]` tokens (0 where there is none) and their probabilities (0 there); a label alone is certain."""
        certain = (self.labels != IGNORED).float()[:, None]
        labels = self.labels.clamp_min(0)[:, None]
        if self.tokens is None or self.logprobs is None:
            return labels, certain
        alone = self.tokens[:, :1] < 0
        probabilities = torch.where(self.tokens < 0, 0.0, self.logprobs.exp())
        first = torch.where(alone, certain, probabilities[:, :1])
        tokens = torch.cat([torch.where(alone, labels, self.tokens[:, :1]), self.tokens[:, 1:]], 1)
        return tokens.clamp_min(0), torch.cat([first, probabilities[:, 1:]], 1)


def distillation_loss(loss: Loss, logits: Tensor, lesson: Lesson, temperature: float) -> Tensor:
    """The mean loss of a draft's `logits [N, vocab]` over the positions that the loss can say something of.

    The draft will draw at the workload's temperature, so that is where it must match; at temperature 0 it is compared
    at 1, as the alternatives of a greedy workload are.  Positions of which the loss knows nothing take no part; NaN if
    no position is left.
    """
    known = lesson.known_to(loss)
    if not known.all():
        logits, lesson = logits[known], lesson.at(known)
    scale = temperature or 1.0
    if loss is Loss.SHARP:
        scale, lesson = scale * _SHARPNESS, lesson.sharpened(_SHARPNESS)
    return _PARTS[loss](_Compared(logits / scale, lesson)).mean()


@dataclass(frozen=True)
class _Compared:
    """Two distributions over the known tokens of every position and the lumped rest."""

    logits: Tensor
    lesson: Lesson

    @cached_property
    def _log_q(self) -> Tensor:
        return torch.log_softmax(self.logits, -1)

    @cached_property
    def _known(self) -> tuple[Tensor, Tensor, Tensor]:
        """`[N, M]` p, q and log q of the known tokens; p and q are 0 where there is none."""
        tokens, p = self.lesson.distribution()
        log_q = self._log_q.gather(1, tokens)
        return p, torch.where(p > 0, log_q.exp(), 0.0), log_q

    @cached_property
    def _rest(self) -> tuple[Tensor, Tensor, Tensor]:
        """`[N]` p, q and log q of all other tokens.

        Of q as a sum over them: 1 - Σ q would be rounding alone where the draft is nearly certain.
        """
        tokens, p = self.lesson.distribution()
        known = torch.where(p > 0, tokens, tokens[:, :1])
        log_q = self._log_q.scatter(1, known, _LOG_NOTHING).logsumexp(1)
        least = math.log(_ROUNDINGS * torch.finfo(log_q.dtype).eps)
        return (1 - p.sum(1)).clamp_min(0.0), log_q.exp(), log_q.clamp_min(least)

    def ce(self) -> Tensor:
        """`[N]` cross-entropy with the label; 0 where there is none."""
        return F.nll_loss(self._log_q, self.lesson.labels, ignore_index=IGNORED, reduction="none")

    def kl(self) -> Tensor:
        """`[N]` KL(p ‖ q)."""
        p, _, log_q = self._known
        rest_p, _, log_rest_q = self._rest
        known = (torch.xlogy(p, p) - p * log_q).sum(1)
        return known + torch.xlogy(rest_p, rest_p) - rest_p * log_rest_q

    def tv(self) -> Tensor:
        """`[N]` ½ Σ |p - q|, which is 1 - Σ min(p, q)."""
        p, q, _ = self._known
        rest_p, rest_q, _ = self._rest
        return 0.5 * ((p - q).abs().sum(1) + (rest_p - rest_q).abs())

    def log(self) -> Tensor:
        """`[N]` -log Σ min(p, q)."""
        p, q, log_q = self._known
        rest = torch.minimum(*self._rest[:2])
        # Where only one token is known, in logarithms: q may be too small for a difference from 1.
        certain = p[:, 0] == 1.0
        accepted = torch.minimum(p, q).sum(1) + rest
        return torch.where(certain, -log_q[:, 0], -accepted.clamp_min(_LEAST).log())

    def hybrid(self) -> Tensor:
        """`[N]` KL while little is accepted, TV when much is."""
        tv = self.tv()
        share = torch.exp(-_HYBRID_RATE * (1 - tv.detach()))
        return share * self.kl() + (1 - share) * tv


_PARTS: Mapping[Loss, Callable[[_Compared], Tensor]] = {
    Loss.CE: _Compared.ce,
    Loss.KL: _Compared.kl,
    Loss.SHARP: _Compared.kl,
    Loss.TV: _Compared.tv,
    Loss.LOG: _Compared.log,
    Loss.CE_KL: lambda each: 0.5 * (each.ce() + each.kl()),
    Loss.CE_TV: lambda each: each.ce() + each.tv(),
    Loss.KL_TV: _Compared.hybrid,
}
