"""Figures over seeds against closed forms."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from mmray.targets import ClassificationTarget, RegressionTarget
from mmray.training.aggregate import (
    bootstrap_difference,
    bootstrap_interval,
    expected_best,
    mean_std,
)


def test_mean_and_standard_deviation_are_over_n_minus_one():
    assert mean_std([0.5, 0.7, 0.9]) == pytest.approx((0.7, 0.2))
    mean, std = mean_std([0.5])
    assert (mean, math.isnan(std)) == (0.5, True)
    assert all(map(math.isnan, mean_std([0.5, None])))


def test_row_scores_average_to_the_main_metric():
    labels, train = np.array(["a", "b", "b", "a"], dtype=object), np.ones(4, bool)
    codes = ClassificationTarget(kind="classification").fit("t", labels, labels, train)
    outputs = np.array([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0], [0.0, 1.0]], np.float32)
    parts, wholes = codes.row_scores(codes.decode(outputs), codes.encode(labels))
    assert (parts.tolist(), wholes.tolist()) == ([1, 0, 1, 0], [1, 1, 1, 1])
    numbers = np.array([1.0, 3.0, 5.0, 7.0])
    codes = RegressionTarget(kind="regression").fit("t", numbers, labels, train)
    parts, _ = codes.row_scores(codes.decode(np.zeros((4, 1), np.float32)), codes.encode(numbers))
    assert parts == pytest.approx([3, 1, 1, 3], rel=1e-6)


def test_the_interval_of_equal_seeds_is_the_binomials():
    right = (np.arange(400) < 300).astype(float)
    low, high = bootstrap_interval(np.tile(right, (3, 1)), np.ones((3, 400)), resamples=4000)
    wanted = stats.binom(400, 0.75).ppf([0.025, 0.975]) / 400
    assert [low, high] == pytest.approx(wanted, abs=0.006)


def test_what_groups_are_called_changes_no_interval():
    rng = np.random.default_rng(0)
    errors, group = rng.random(60), rng.integers(0, 12, 60)
    names = rng.permutation([f"/home/{i}/clip.mp4" for i in range(12)])
    wholes = np.ones(60)
    assert bootstrap_interval(errors, wholes, group) == bootstrap_interval(errors, wholes, names[group])


def clustered(
    rng: np.random.Generator, groups: int, rows: int, truth: float
) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong of rows whose groups are easy or hard: a beta-binomial of intraclass correlation 0.5."""
    easy = rng.beta(truth, 1 - truth, size=groups)
    return (rng.random((groups, rows)) < easy[:, None]).ravel().astype(float), np.repeat(
        np.arange(groups), rows
    )


def coverage(groups: int, *, by_group: bool, draws: int = 200) -> float:
    """How often the interval holds the truth."""
    rng, held = np.random.default_rng(7), 0
    for draw in range(draws):
        right, names = clustered(rng, groups, 20, 0.7)
        low, high = bootstrap_interval(
            right, np.ones(len(right)), names if by_group else None, resamples=250, seed=draw
        )
        held += low <= 0.7 <= high
    return held / draws


@pytest.mark.parametrize("groups", [10, 40])
def test_an_interval_over_groups_holds_the_truth_as_often_as_it_says(groups):
    # 200 draws of 0.95 differ from it by less than 3 * 0.0154; few, skewed groups by a little more.
    assert 0.88 <= coverage(groups, by_group=True) <= 0.99


def test_an_interval_over_rows_of_groups_does_not():
    assert coverage(40, by_group=False) < 0.6


def test_groups_of_one_row_are_rows_and_one_group_says_nothing():
    right = np.array([1.0, 0.0, 1.0, 1.0])
    ones = np.ones(4)
    assert bootstrap_interval(right, ones, ["a", "b", "c", "d"]) == bootstrap_interval(right, ones)
    assert all(map(math.isnan, bootstrap_interval(right, ones, ["a"] * 4)))
    assert all(map(math.isnan, bootstrap_interval(np.zeros(0), np.zeros(0))))


def test_a_difference_is_of_the_same_rows():
    """Two models that are right on the same 300 rows but for 8: McNemar's normal interval, not the
    binomials'."""
    a = (np.arange(400) < 300).astype(float)
    b = a.copy()
    b[[1, 2, 3, 4, 5, 6]], b[[398, 399]] = 0, 1
    wholes = np.ones(400)
    low, high = bootstrap_difference((a, wholes), (b, wholes), resamples=4000)
    spread = 1.96 * math.sqrt(8 - 4**2 / 400) / 400
    assert [low, high] == pytest.approx([0.01 - spread, 0.01 + spread], abs=0.003)
    assert bootstrap_difference((a, wholes), (a, wholes)) == (0, 0)


def test_the_best_one_would_expect_of_k_trials_is_the_mean_over_all_draws_of_k():
    values = [0.3, 0.9, 0.5, 0.5]
    for lower in (True, False):
        best = min if lower else max
        drawn = [np.mean([best(draw) for draw in itertools.product(values, repeat=k)]) for k in range(1, 5)]
        assert expected_best(values, lower_is_better=lower) == pytest.approx(drawn)
