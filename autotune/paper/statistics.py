"""Least squares and correlations of a handful of points."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Line:
    """The least-squares line through points."""

    slope: float
    intercept: float
    r_squared: float
    """Share of the variance that it explains; 1 where there is no variance."""


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line:
    """The line through at least two points with different x."""
    slope, intercept = np.polyfit(x, y, 1)
    left = np.asarray(y) - (slope * np.asarray(x) + intercept)
    variance = float(np.var(y))
    return Line(float(slope), float(intercept), 1.0 if variance == 0 else 1.0 - float(np.mean(left**2)) / variance)


def pearson(x: Sequence[float], y: Sequence[float]) -> float:
    """Linear correlation; 0 where either does not vary."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation, equal values sharing their mean rank."""
    return pearson(_ranks(x).tolist(), _ranks(y).tolist())


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: NDArray[np.float64] = ends - (counts - 1) / 2.0
    return means[places]
