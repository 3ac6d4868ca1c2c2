"""Rows and seeds of a model on the same test split → mean, standard deviation, interval, difference.

The main metric of every target is a ratio of sums over rows (accuracy: right / 1; F1 of labels:
2 TP / (2 TP + FP + FN)), so that a bootstrap can resample the rows' own parts.

Shapes: N rows, S seeds, G groups.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

__all__ = [
    "bootstrap_difference",
    "bootstrap_interval",
    "bootstrap_intervals",
    "expected_best",
    "mean_std",
]

Groups = Sequence[object] | np.ndarray | None
Scores = tuple[np.ndarray, np.ndarray]
"""`FittedTarget.row_scores` of a model [N], or of one a seed on the same rows [S, N]."""


def bootstrap_interval(
    parts: np.ndarray, wholes: np.ndarray, groups: Groups = None, resamples: int = 1000, seed: int = 0
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
    ratios, count = _resampled([(parts, wholes)], groups, resamples, seed)
    return _percentiles(ratios[0], count)


def bootstrap_difference(
    model: Scores, other: Scores, groups: Groups = None, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the first model's ratio minus the second's on the same rows, resampled together.

    A row that is hard for both moves neither difference: the interval is narrower than those of the two
    models suggest. Each model's seeds are resampled by themselves. Otherwise as `bootstrap_interval`.
    """
    ratios, count = _resampled([model, other], groups, resamples, seed)
    return _percentiles(ratios[0] - ratios[1], count)


def bootstrap_intervals(
    statistics: Callable[[np.ndarray], Sequence[float]],
    rows: int,
    groups: Groups = None,
    resamples: int = 1000,
    seed: int = 0,
) -> list[tuple[float, float]]:
    """95 % interval of each of any statistics of rows, over the resamples that `bootstrap_interval` draws.

    `statistics` is called with the drawn rows, indices below `rows` in which those of a group drawn twice
    stand twice, and once with all of them. NaN: undefined; an interval is undefined where the statistic is in
    more than one of 20 resamples.
    """
    names = np.arange(rows) if groups is None else pd.factorize(np.asarray(groups, str))[0]
    count = int(names.max()) + 1 if rows else 0
    size = len(statistics(np.arange(rows)))
    if count < 2:
        return [(math.nan, math.nan)] * size
    members = np.split(np.argsort(names, kind="stable"), np.cumsum(np.bincount(names))[:-1])
    rng = np.random.default_rng(seed)
    found = np.empty((resamples, size))
    for i in range(resamples):
        drawn = rng.integers(count, size=count)
        found[i] = statistics(drawn if count == rows else np.concatenate([members[g] for g in drawn]))
    undefined = np.isnan(found).mean(0) > 0.05
    return [
        (math.nan, math.nan) if without else _percentiles(values[~np.isnan(values)], count)
        for values, without in zip(found.T, undefined)
    ]


def _resampled(models: Sequence[Scores], groups: Groups, resamples: int, seed: int) -> tuple[np.ndarray, int]:
    """Each model's ratio in each resample [models, resamples], and G; NaN where there are fewer than two."""
    scores = [(np.atleast_2d(parts), np.atleast_2d(wholes)) for parts, wholes in models]
    rows = scores[0][0].shape[1]
    # Numbered as they come, not by name: what a group is called draws no other resample.
    names = np.arange(rows) if groups is None else pd.factorize(np.asarray(groups, str))[0]
    count = int(names.max()) + 1 if rows else 0
    ratios = np.full((len(models), resamples), math.nan)
    if count < 2:
        return ratios, count
    by_group = [
        tuple(np.stack([np.bincount(names, row, count) for row in x]) for x in pair) for pair in scores
    ]
    rng = np.random.default_rng(seed)
    for i in range(resamples):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        for model, (parts_SG, wholes_SG) in enumerate(by_group):
            seeds = len(parts_SG)
            wholes_S = wholes_SG @ times
            ratios_S = np.divide(parts_SG @ times, wholes_S, out=np.zeros(seeds), where=wholes_S > 0)
            ratios[model, i] = ratios_S[rng.integers(seeds, size=seeds)].mean()
    return ratios, count


def _percentiles(values: np.ndarray, count: int) -> tuple[float, float]:
    from scipy import stats

    if count < 2:
        return math.nan, math.nan
    tail = stats.norm.cdf(-math.sqrt(count / (count - 1)) * stats.t.ppf(0.975, count - 1))
    low, high = np.percentile(values, [100 * tail, 100 * (1 - tail)])
    return float(low), float(high)


def mean_std(values: Sequence[float | None]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) over seeds; NaN where a value, or a second one, is missing."""
    numbers = np.array([math.nan if value is None else value for value in values], dtype=float)
    if not len(numbers):
        return math.nan, math.nan
    return float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else math.nan


def expected_best(values: Sequence[float], *, lower_is_better: bool) -> list[float]:
    """The best of 1, 2, … n trials that one would expect, from what n independent ones found.

        E[max of k] = sum over i of v_i ((i / n)^k - ((i - 1) / n)^k),   v_1 ≤ … ≤ v_n

    Dodge et al. 2019, "Show your work: improved reporting of experimental results": how much of a result is
    due to the number of trials.
    """
    sign = -1 if lower_is_better else 1
    found = np.sort(sign * np.asarray(values, dtype=float))
    n = len(found)
    share, before = np.arange(1, n + 1) / n, np.arange(n) / n
    return [float(sign * (found * (share**k - before**k)).sum()) for k in range(1, n + 1)]
