"""Rows and seeds of a model on the same test split → mean, standard deviation, interval.

The main metric of every target is a ratio of sums over rows (accuracy: right / 1; F1 of labels:
2 TP / (2 TP + FP + FN)), so that a bootstrap can resample the rows' own parts.

Shapes: N rows, S seeds.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = ["bootstrap_interval", "mean_std"]


def bootstrap_interval(
    parts: np.ndarray,
    wholes: np.ndarray,
    groups: Sequence[object] | np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of sum(parts) / sum(wholes), over resamples of groups of rows.

    `parts`, `wholes`: `FittedTarget.row_scores` of one model [N], or of one a seed on the same rows [S, N]:
    groups and seeds are then both resampled and the seeds' ratios averaged, so that the interval is about
    what another test set and another seed would give. `groups` [N]: rows of one group (a recording, a
    speaker) are drawn together, since what is right of one is mostly right of the others: 20 recordings of
    50 rows say about as much as 20 rows, not 1,000 (Davison and Hinkley 1997, "Bootstrap methods and their
    application", 3.8). Without it every row is a group. Undefined (NaN) of fewer than two.

    Efron 1979, "Bootstrap methods: another look at the jackknife"; over two crossed factors: Owen 2007, "The
    pigeonhole bootstrap". The percentiles are those of Hesterberg 2015, "What teachers should know about the
    bootstrap", which widen it where groups are few: norm.cdf(±√(G / (G - 1)) t(0.975, G - 1)).
    """
    from scipy import stats

    parts_SN, wholes_SN = np.atleast_2d(parts), np.atleast_2d(wholes)
    seeds, rows = parts_SN.shape
    # Numbered as they come, not by name: what a group is called draws no other resample.
    names = np.arange(rows) if groups is None else pd.factorize(np.asarray(groups, str))[0]
    count = int(names.max()) + 1 if rows else 0
    if count < 2:
        return math.nan, math.nan
    parts_SG = np.stack([np.bincount(names, row, count) for row in parts_SN])
    wholes_SG = np.stack([np.bincount(names, row, count) for row in wholes_SN])
    rng = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for i in range(resamples):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        drawn = rng.integers(seeds, size=seeds)
        wholes_S = wholes_SG @ times
        ratios_S = np.divide(parts_SG @ times, wholes_S, out=np.zeros(seeds), where=wholes_S > 0)
        ratios[i] = ratios_S[drawn].mean()
    tail = stats.norm.cdf(-math.sqrt(count / (count - 1)) * stats.t.ppf(0.975, count - 1))
    low, high = np.percentile(ratios, [100 * tail, 100 * (1 - tail)])
    return float(low), float(high)


def mean_std(values: Sequence[float | None]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) over seeds; NaN where a value, or a second one, is missing."""
    numbers = np.array([math.nan if value is None else value for value in values], dtype=float)
    if not len(numbers):
        return math.nan, math.nan
    return float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else math.nan
