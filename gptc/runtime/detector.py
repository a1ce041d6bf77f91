"""Outliers among losses and gradient norms: the most that the next number may be, from a window of those before it.

`mad`     median + K times the median absolute deviation, in units in which that of a normal distribution is its
          standard deviation (Leys et al. 2013).  Outliers hardly move it, until they are half of the window.
`zscore`  llm.c's (`llmc/outlier_detector.h`): (x - mean) / std <= K, over a window in which x has replaced the oldest
          number; population variance.  An outlier widens the window that it is in.

Both know no limit before the window is full.  Limits are known before the number is, so that the update itself can heed
them; that they say the same as the z-score of llm.c afterwards is what its test shows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

WINDOW = 128
"""Numbers looked back on."""
NORMAL_MAD = 1.4826022185056018
"""Standard deviations of a normal distribution in one median absolute deviation of it: 1 / its third quartile."""


def mad(window: Sequence[float], k: float) -> float:
    """Where at least half of the window is one number there is no scale, and no limit."""
    middle = statistics.median(window)
    deviation = statistics.median(abs(x - middle) for x in window)
    return middle + k * NORMAL_MAD * deviation if deviation > 0 else math.inf


def zscore(window: Sequence[float], k: float) -> float:
    """With n numbers, those of the window without the oldest and x = mean + d of those, the square of the z-score is
    d^2 (n - 1) / (n variance + d^2): it grows with d towards n - 1, and is k^2 at the limit."""
    rest = window[1:]
    n = len(window)
    if k * k >= n - 1:
        return math.inf
    mean = statistics.fmean(rest)
    variance = statistics.fmean((x - mean) ** 2 for x in rest)
    return mean + k * math.sqrt(n * variance / (n - 1 - k * k))


STATISTICS: dict[str, Callable[[Sequence[float], float], float]] = {"mad": mad, "zscore": zscore}


def limit(window: Sequence[float], k: float, statistic: str) -> float:
    """The largest float32 that is no outlier; infinity where there is no limit: for k = 0, or in a window not full."""
    if k == 0 or len(window) < WINDOW:
        return math.inf
    exact = STATISTICS[statistic](window, k)
    if not exact <= float(np.finfo(np.float32).max):
        return math.inf
    rounded = np.float32(exact)
    return float(rounded if rounded <= exact else np.nextafter(rounded, np.float32(-math.inf)))


@dataclass(frozen=True)
class Limits:
    """The most that a step's loss and gradient norm may be; infinity where anything will do."""

    loss: float = math.inf
    norm: float = math.inf

    def reason(self, loss: float, norm: float) -> str:
        """Why an update with these is skipped."""
        if loss > self.loss:
            return f"the loss, {loss:.4f}, is above {self.loss:.4f}"
        if norm > self.norm:
            return f"the gradient norm, {norm:.4f}, is above {self.norm:.4f}"
        return "the factor that clips the gradient is 0"


@dataclass(frozen=True)
class Detector:
    """What counts as an outlier: K for the loss and for the norm (0: nothing does), and the statistic."""

    loss: float
    norm: float
    statistic: str

    def limits(self, losses: Sequence[float], norms: Sequence[float]) -> Limits:
        """For the next step, from the windows of those before."""
        return Limits(limit(losses, self.loss, self.statistic), limit(norms, self.norm, self.statistic))
