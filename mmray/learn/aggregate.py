"""Several seeds of one model on the same test rows → mean, standard deviation, interval.

The main metric of a target is a ratio of sums over rows (accuracy: right / 1; mean absolute error:
|error| / 1), so that a bootstrap can resample the rows' own parts.
"""

import math
from collections.abc import Sequence

import numpy as np

from mmray.learn.codes import ClassCodes, TargetCodes

__all__ = ["bootstrap_interval", "mean_std", "row_scores"]


def row_scores(codes: TargetCodes, outputs: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's part of the main metric, [N] float64 each: it is the sum of the first / sum of the second.

    `outputs` [N, C] of the model, `truth` [N] encoded and known.
    """
    predicted, true = codes.predicted(outputs), codes.truth(truth)
    scores = predicted == true if isinstance(codes, ClassCodes) else np.abs(predicted - true)
    return scores.astype(float), np.ones(len(true))


def mean_std(values: Sequence[float | None]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) over seeds; NaN where a value, or a second one, is missing."""
    numbers = np.array([math.nan if value is None else value for value in values], dtype=float)
    if not len(numbers):
        return math.nan, math.nan
    return float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else math.nan


def bootstrap_interval(
    parts: np.ndarray, wholes: np.ndarray, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the mean over S seeds of sum(parts) / sum(wholes), both [S, N].

    Percentiles 2.5 and 97.5 over resamples of the rows, the same for all seeds (Efron 1979, "Bootstrap
    methods: another look at the jackknife"): what another test set would give, seed noise averaged out.
    """
    rows = parts.shape[1]
    if not rows:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    draws = (rng.integers(rows, size=rows) for _ in range(resamples))
    ratios = [(parts[:, drawn].sum(1) / wholes[:, drawn].sum(1)).mean() for drawn in draws]
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)
