import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from mmray.learn.metrics import (
    bootstrap_interval,
    confusion_matrix,
    lower_is_better,
    majority_metrics,
    target_metrics,
)


@pytest.mark.parametrize("missing_class", [False, True])
def test_class_metrics_are_scikit_learns(missing_class):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3 if missing_class else 4, 200)
    predicted = np.where(rng.random(200) < 0.6, truth, rng.integers(0, 3 if missing_class else 4, 200))
    ours = target_metrics(predicted, truth, classes=4)
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(
        truth, predicted, average="macro"
    )
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(truth, predicted),
        "f1_macro": f1,
        "precision_macro": precision,
        "recall_macro": recall,
    }
    assert ours == pytest.approx(expected, abs=1e-6)
    np.testing.assert_array_equal(
        confusion_matrix(predicted, truth, 4),
        sklearn.metrics.confusion_matrix(truth, predicted, labels=range(4)),
    )


def test_number_metrics_are_scikit_learns_and_scipys():
    rng = np.random.default_rng(0)
    truth = rng.normal(100, 3, 50)
    predicted = truth + rng.normal(0, 1, 50)
    assert target_metrics(predicted, truth, classes=None) == pytest.approx(
        {
            "mae": sklearn.metrics.mean_absolute_error(truth, predicted),
            "correlation": scipy.stats.pearsonr(truth, predicted)[0],
        },
        abs=1e-9,
    )


def test_correlation_of_a_constant_is_undefined():
    numbers = np.array([1.0, 2, 3])
    assert math.isnan(target_metrics(np.full(3, 2.0), numbers, None)["correlation"])
    assert math.isnan(target_metrics(numbers[:1], numbers[:1], None)["correlation"])
    assert target_metrics(numbers * 1e-9, numbers, None)["correlation"] == pytest.approx(1)


def test_no_rows_have_undefined_metrics():
    nothing = np.zeros(0, dtype=np.int64)
    for classes in (3, None):
        values = target_metrics(nothing, nothing, classes)
        assert values.keys() == target_metrics(np.ones(2, int), np.ones(2, int), classes).keys()
        assert all(math.isnan(value) for value in values.values())
        assert all(math.isnan(bound) for bound in bootstrap_interval(nothing, nothing, classes))


def test_one_class_is_always_right():
    zeros = np.zeros(4, dtype=np.int64)
    assert target_metrics(zeros, zeros, classes=1) == dict.fromkeys(
        ("accuracy", "f1_macro", "precision_macro", "recall_macro"), 1.0
    )


def test_majority_predicts_what_train_suggests():
    train, test = np.array([2, 2, 1, 0]), np.array([2, 0, 1, 2, 2])
    row = majority_metrics(train, test, classes=3)
    assert row["accuracy"] == pytest.approx(3 / 5)
    assert row["f1_macro"] == pytest.approx((2 * 3 / (3 + 5)) / 3)  # 2 TP / (2 TP + FP + FN), of 3 classes
    row = majority_metrics(np.array([1.0, 3.0]), np.array([2.0, 5.0]), classes=None)
    assert row["mae"] == pytest.approx(1.5)


def test_interval_of_a_proportion_is_the_normal_one():
    """For n rows of accuracy p the interval nears p ± 1.96 sqrt(p (1 - p) / n)."""
    truth = np.zeros(2000, dtype=np.int64)
    predicted = (np.arange(2000) % 5 == 0).astype(np.int64)
    low, high = bootstrap_interval(predicted, truth, classes=2)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 2000)
    assert (low, high) == pytest.approx((0.8 - half, 0.8 + half), abs=0.15 * half)
    assert (low, high) == bootstrap_interval(predicted, truth, classes=2)
    assert (low, high) != bootstrap_interval(predicted, truth, classes=2, seed=1)


def test_interval_of_an_error_is_the_normal_one():
    rng = np.random.default_rng(0)
    truth, predicted = rng.normal(size=1000), rng.normal(size=1000)
    errors = np.abs(truth - predicted)
    half = 1.96 * errors.std() / math.sqrt(1000)
    expected = (errors.mean() - half, errors.mean() + half)
    assert bootstrap_interval(predicted, truth, None) == pytest.approx(expected, abs=0.15 * half)


@pytest.mark.parametrize(
    ("metric", "lower"),
    [
        ("val_loss", True),
        ("val/score/mae", True),
        ("val/score/correlation", False),
        ("val/mood/f1_macro", False),
    ],
)
def test_direction(metric, lower):
    assert lower_is_better(metric) is lower
