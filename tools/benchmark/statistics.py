"""What samples of times mean: their middle, their spread, and how sure either is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from scipy import stats

SPREAD = 0.15  # inter-quartile range over median beyond which a run is called noisy
CONFIDENCE = 0.95  # of the interval of a median
CERTAIN, TRIM = 0.995, 0.1  # of the interval of a ratio; what is left out at either end
RESAMPLES = 2000


class Summary(TypedDict):
    """Of a sample, in its unit; `low` and `high` bound the median with 95 % confidence."""

    count: int
    median: float
    low: float
    high: float
    p90: float
    p99: float
    iqr: float


class Ratio(TypedDict):
    """Of two things measured in turn, the second over the first, with its 99.5 % interval."""

    pairs: int
    ratio: float
    low: float
    high: float
    differs: bool  # the interval leaves 1 out


def summarise(samples: Sequence[float]) -> Summary:
    """The summary of a sample of at least two values."""
    quartiles = np.percentile(samples, [25, 75])
    interval = stats.bootstrap(
        (np.asarray(samples),),
        np.median,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return {
        "count": len(samples),
        "median": float(np.median(samples)),
        "low": float(interval.low),
        "high": float(interval.high),
        "p90": float(np.percentile(samples, 90)),
        "p99": float(np.percentile(samples, 99)),
        "iqr": float(quartiles[1] - quartiles[0]),
    }


def compare(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """The ratio of two equally long sequences of block medians that were taken in turn.

    Of each pair the logarithm of the ratio: what slows both down at the time cancels out. Two pairs
    in a row, A B and B A, are one observation: what changes steadily meanwhile cancels out too, and
    neighbours are alike where something slows one of them down for longer. The interval is that of
    Student's t for their mean, trimmed of a tenth at either end since a burst of other work hits
    one block of a pair only.
    """
    logs = np.log(np.asarray(second)) - np.log(np.asarray(first))
    observed = logs[: len(logs) // 2 * 2].reshape(-1, 2).mean(axis=1)
    low, high = _yuen(observed, CERTAIN)
    return {
        "pairs": len(logs),
        "ratio": float(np.exp(stats.trim_mean(observed, TRIM))),
        "low": float(np.exp(low)),
        "high": float(np.exp(high)),
        "differs": not low <= 0 <= high,
    }


def _yuen(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Confidence interval of the trimmed mean (Yuen 1974): Winsorised variance, Student's t."""
    cut = int(TRIM * len(values))
    winsorised = np.asarray(stats.mstats.winsorize(np.sort(values), limits=TRIM))
    left = len(values) - 2 * cut
    error = winsorised.std(ddof=1) / ((1 - 2 * TRIM) * len(values) ** 0.5)
    reach = stats.t.ppf((1 + confidence) / 2, left - 1) * error
    centre = float(stats.trim_mean(values, TRIM))
    return centre - float(reach), centre + float(reach)
