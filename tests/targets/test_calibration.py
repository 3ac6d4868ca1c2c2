"""Temperatures against a search of scipy's, and against the truth they were drawn from."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax

from mmray.targets import (
    ClassificationTarget,
    FittedClassification,
    FittedMultilabel,
    FittedRegression,
    MultilabelTarget,
    RegressionTarget,
)

CLASSES = ["a", "b", "c"]
ONE = FittedClassification(ClassificationTarget(kind="classification", classes=CLASSES))
SOME = FittedMultilabel(MultilabelTarget(kind="multilabel", classes=CLASSES))


def overconfident(n: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits `factor` times those that the classes were drawn by."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(n, 3)) * 1.5
    truth = (rng.random((n, 1)) > softmax(logits, axis=1).cumsum(1)).sum(1)
    return (factor * logits).astype(np.float32), truth


def test_the_temperature_is_the_factor_by_which_logits_are_too_large():
    outputs, truth = overconfident(20_000, 2.5)
    fitted = ONE.calibrated(outputs, truth)
    assert fitted.temperature == pytest.approx(2.5, rel=0.03)
    before, after = (t.metrics(t.decode(outputs), truth) for t in (ONE, fitted))
    assert before["ece"] > 0.1
    assert after["ece"] < 0.02
    assert after["nll"] < before["nll"]
    assert after["accuracy"] == before["accuracy"]
    assert fitted.uncalibrated() == ONE


def test_the_temperature_is_scipys_minimum_with_the_prior():
    outputs, truth = overconfident(60, 3.0)

    def cost(log_t: float) -> float:
        return -log_softmax(outputs / np.exp(log_t), axis=1)[range(60), truth].sum() + log_t**2 / 2

    best = minimize_scalar(cost, bounds=(-3, 3), method="bounded", options={"xatol": 1e-8}).x
    assert np.log(ONE.calibrated(outputs, truth).temperature) == pytest.approx(best, abs=1e-4)


def test_a_few_rows_that_are_all_right_do_not_make_it_certain():
    outputs = (4 * np.eye(3)).astype(np.float32)
    assert 0.3 < ONE.calibrated(outputs, np.arange(3)).temperature < 1


def test_labels_have_a_temperature_where_it_moves_no_prediction():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(8000, 3))
    truth = (rng.random((8000, 3)) < expit(logits)).astype(np.float32)
    outputs = (2 * logits).astype(np.float32)
    fitted = SOME.calibrated(outputs, truth)
    assert fitted.temperature == pytest.approx(2, rel=0.05)
    np.testing.assert_array_equal(fitted.decode(outputs).values, SOME.decode(outputs).values)
    high = FittedMultilabel(MultilabelTarget(kind="multilabel", classes=CLASSES, threshold=0.8))
    assert high.calibrated(outputs, truth) == high


def test_a_number_has_nothing_to_calibrate():
    number = FittedRegression(RegressionTarget(kind="regression"), 0.0, 1.0)
    assert number.calibrated(np.zeros((2, 1), np.float32), np.zeros(2)) is number
