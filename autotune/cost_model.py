"""What a burst will probably take: a law of burst seconds, fitted online to the builds a run has measured (pure).

    burst_s(k) = a + b·bytes + k · (c + d·layers + e·bytes + f·(bytes beyond a cache) + g·kv_bytes),  a … g ≥ 0

Terms: a call, weights that the target drove out of the caches, and, for each of the k steps, a constant, the calls of
a layer, weights, weights that fit no cache, and the keys and values of the context.  One law for every (backend,
precision), by least squares of *relative* errors; no coefficient is negative, so a larger draft is never predicted to
be faster.

The margin is the law's own error where it did not look: every build is predicted by the law of the others, and the
margin is the Student prediction bound of how far those predictions were too slow, at the worst of a build's
lookaheads.  It is scaled by the leverage of the build in question, so it is wide far from what was measured.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from autotune.candidate import Build, Precision

Vector = NDArray[np.float64]
Program = tuple[str, Precision]

CONFIDENCE = 0.8
"""Share of builds no lookahead of which should come out faster than the optimistic bound, if their errors are alike.

Screening picks out builds that the law thinks slow, among which it is wrong more often than among all builds.
"""
FEWEST_BUILDS = 6
"""Builds of a backend at a precision below which it has no law of its own."""
FEWEST_TO_BORROW = 3
"""Builds of it below which nothing is predicted, though another program of the run has a law."""
BORROWED_MARGIN = 2.0
"""How many times wider the margin of a borrowed law is."""
LEAST_MARGIN = 0.01
"""Measurements of one build differ by about so much between two runs on a quiet machine."""

_CACHES_BYTES = (1 << 20, 16 << 20)
_RIDGE = 1e-6
"""Share of a column's own weight added to it: keeps terms that the builds cannot tell apart finite."""
_TERMS = 6 + len(_CACHES_BYTES)


@dataclass(frozen=True)
class Observation:
    """A build and the median seconds of its bursts of 1 … K steps."""

    build: Build
    burst_s: tuple[float, ...]


@dataclass(frozen=True)
class Prediction:
    """Predicted seconds of bursts of 1 … K steps, and the share by which all may be overestimated."""

    burst_s: tuple[float, ...]
    margin: float
    builds: int
    """Measured builds of the same backend and precision behind it."""

    def optimistic_s(self, lookahead: int) -> float:
        """The seconds that the burst is hardly faster than."""
        return self.burst_s[lookahead - 1] * (1.0 - self.margin)


@dataclass(frozen=True)
class _Law:
    """Coefficients [terms], and how they err: on the log scale, in units of a build's leverage."""

    coefficients: Vector
    spread: "_Spread"
    inverse: Vector
    """[terms, terms] inverse of the regularised Gram matrix of relative terms."""
    builds: int

    def seconds(self, terms: Vector) -> Vector:
        """[lookaheads] predicted seconds of a build with these terms."""
        return terms @ self.coefficients

    def reach(self, terms: Vector) -> float:
        """sqrt(1 + leverage): how much less certain this build is than one in the middle of the measured ones."""
        return _reach(terms, self.seconds(terms), self.inverse)


@dataclass(frozen=True)
class _Spread:
    """Of how far held-out predictions were too slow (log ratios, largest over a build's lookaheads)."""

    mean: float
    deviation: float
    count: int

    def bound(self, reach: float) -> float:
        """The log ratio that the next build of this reach stays below, at `CONFIDENCE`."""
        wide = _student(CONFIDENCE, self.count - 1) * self.deviation * math.sqrt(1.0 + 1.0 / self.count)
        return max(self.mean + wide, 0.0) * reach


class CostModel:
    """The laws of all programs of a run."""

    def __init__(self, observations: Iterable[Observation], context_tokens: int) -> None:
        self._context_tokens = context_tokens
        self._measured: dict[Program, list[Observation]] = {}
        for each in observations:
            self._measured.setdefault((each.build.backend, each.build.precision), []).append(each)
        self._laws: Mapping[Program, _Law] = {
            program: self._fit(measured)
            for program, measured in self._measured.items()
            if len(measured) >= FEWEST_BUILDS
        }

    def predict(self, build: Build, lookaheads: int) -> Prediction | None:
        """Seconds of bursts of 1 … `lookaheads` steps; None if too little was measured to say."""
        program = (build.backend, build.precision)
        law = self._laws.get(program)
        terms = burst_terms(build, lookaheads, self._context_tokens)
        count = len(self._measured.get(program, ()))
        if law is not None:
            margin = _margin(law.spread.bound(law.reach(terms)))
            return Prediction(tuple(law.seconds(terms).tolist()), margin, count)
        if count < FEWEST_TO_BORROW or not self._laws:
            return None
        return self._borrow(build, terms, count)

    def _borrow(self, build: Build, terms: Vector, count: int) -> Prediction:
        """By the law of the program with most builds (the same backend's, if it has one), scaled to the own builds."""
        _, donor = max(self._laws.items(), key=lambda item: (item[0][0] == build.backend, item[1].builds, item[0]))
        own = [
            (np.log(donor.seconds(known) / each.burst_s), donor.reach(known))
            for each in self._measured[build.backend, build.precision]
            for known in [self._terms(each)]
        ]
        shift = float(np.mean([ratios.mean() for ratios, _ in own]))
        # Each build's shift without itself: the mean of n - 1 others is off by n / (n - 1) times as much.
        held_out = count / (count - 1)
        slow = [float((ratios - ratios.mean()).max() + (ratios.mean() - shift) * held_out) / at for ratios, at in own]
        bound = BORROWED_MARGIN * max(_spread(slow).bound(donor.reach(terms)), donor.spread.bound(donor.reach(terms)))
        return Prediction(tuple((donor.seconds(terms) * math.exp(-shift)).tolist()), _margin(bound), count)

    def _terms(self, observation: Observation) -> Vector:
        return burst_terms(observation.build, len(observation.burst_s), self._context_tokens)

    def _fit(self, measured: list[Observation]) -> _Law:
        """The law of one program's builds, with its held-out errors."""
        terms = [self._terms(each) for each in measured]
        relative = [known / np.array(each.burst_s)[:, None] for known, each in zip(terms, measured, strict=True)]
        grams = np.array([each.T @ each for each in relative])
        sums = np.array([each.sum(axis=0) for each in relative])
        gram, total = grams.sum(axis=0), sums.sum(axis=0)
        coefficients, inverse = _solve(gram, total)
        slow = []
        for known, each, own_gram, own_sum in zip(terms, measured, grams, sums, strict=True):
            others, others_inverse = _solve(gram - own_gram, total - own_sum)
            predicted = known @ others
            slow.append(float(np.log(predicted / each.burst_s).max()) / _reach(known, predicted, others_inverse))
        return _Law(coefficients, _spread(slow), inverse, len(measured))


def burst_terms(build: Build, lookaheads: int, context_tokens: int) -> Vector:
    """[lookaheads, terms] what bursts of 1 … `lookaheads` steps consist of (bytes in MiB, to keep numbers alike)."""
    shape = build.shape
    steps = np.arange(1.0, lookaheads + 1)
    read_bytes = shape.weight_bytes(build.precision) - shape.vocab * shape.hidden * build.precision.other_bytes
    beyond = [max(read_bytes - cache_bytes, 0) for cache_bytes in _CACHES_BYTES]
    every_step = [1.0, shape.layers, *(size / 2**20 for size in (read_bytes, *beyond))]
    every_step.append(shape.kv_bytes_per_token * context_tokens / 2**20)
    once = np.broadcast_to([1.0, read_bytes / 2**20], (lookaheads, 2))
    return np.hstack([once, steps[:, None] * np.array(every_step)])


def nonnegative_least_squares(gram: Vector, target: Vector) -> Vector:
    """argmin over x ≥ 0 of xᵀ·gram·x / 2 - target·x, by the active-set method of Lawson and Hanson.

    gram: [n, n] positive definite; target: [n].
    """
    solution = np.zeros(len(target))
    free = np.zeros(len(target), bool)
    tolerance = 1e-10 * float(np.abs(target).max(initial=0.0))
    for _ in range(10 * len(target)):
        slope = np.where(free, -np.inf, target - gram @ solution)
        if slope.max() <= tolerance:
            break
        free[int(slope.argmax())] = True
        while True:
            trial = np.zeros(len(target))
            trial[free] = np.linalg.solve(gram[np.ix_(free, free)], target[free])
            bad = free & (trial <= 0.0)
            if not bad.any():
                break
            step = float((solution[bad] / (solution[bad] - trial[bad])).min())
            solution = solution + step * (trial - solution)
            free &= solution > 1e-14 * max(float(solution.max()), 1e-300)
            solution[~free] = 0.0
        solution = trial
    return solution


def _solve(gram: Vector, total: Vector) -> tuple[Vector, Vector]:
    """Coefficients of the law, and the inverse of the regularised Gram matrix, in the units of the terms.

    A term that no build had gets no coefficient and no leverage: what it costs can only make a burst slower.
    """
    weight = np.diag(gram)
    seen = weight > 0.0
    scale = np.sqrt(np.where(seen, weight, 1.0))
    scaled = gram / np.outer(scale, scale) + _RIDGE * np.eye(len(total))
    coefficients = nonnegative_least_squares(scaled, total / scale) / scale
    inverse = np.linalg.inv(scaled) / np.outer(scale, scale)
    return coefficients, np.where(np.outer(seen, seen), inverse, 0.0)


def _reach(terms: Vector, predicted: Vector, inverse: Vector) -> float:
    """sqrt(1 + h), h the leverage of a build's mean row; its lookaheads err together, so they are one observation."""
    row = (terms / predicted[:, None]).mean(axis=0)
    return math.sqrt(1.0 + len(terms) * float(row @ inverse @ row))


def _spread(slow: list[float]) -> _Spread:
    return _Spread(float(np.mean(slow)), float(np.std(slow, ddof=1)), len(slow))


def _margin(log_ratio: float) -> float:
    return max(1.0 - math.exp(-log_ratio), LEAST_MARGIN)


def _student(confidence: float, freedom: int) -> float:
    """Quantile of Student's t, by its expansion in 1 / freedom (Abramowitz and Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(confidence)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
