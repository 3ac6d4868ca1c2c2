import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as sk
import torch
from torchmetrics.functional import classification as tm

from mmray.targets import (
    ClassificationTarget,
    FittedClassification,
    FittedMultilabel,
    FittedOrdinal,
    FittedRegression,
    FittedTarget,
    MultilabelTarget,
    OrdinalTarget,
    RegressionTarget,
    lower_is_better,
)
from mmray.targets.metrics import (
    class_metrics,
    confusion_matrix,
    label_metrics,
    level_metrics,
    number_metrics,
    sentiment_metrics,
)
from mmray.training.aggregate import bootstrap_interval, mean_std

CODES: dict[str, FittedTarget] = {
    "classification": FittedClassification(
        ClassificationTarget(kind="classification", classes=["a", "b", "c", "d"])
    ),
    "multilabel": FittedMultilabel(
        MultilabelTarget(kind="multilabel", classes=["a", "b", "c"], threshold=0.4)
    ),
    "regression": FittedRegression(RegressionTarget(kind="regression"), 1.0, 2.0),
    "ordinal": FittedOrdinal(OrdinalTarget(kind="ordinal", classes=["a", "b", "c", "d"])),
    "sentiment": FittedRegression(RegressionTarget(kind="regression", scale="sentiment"), 0.5, 1.5),
    "sentiment levels": FittedOrdinal(OrdinalTarget(kind="ordinal", scale="sentiment")),
}


def drawn(codes: FittedTarget, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and encoded truths of n rows."""
    rng = np.random.default_rng(seed)
    outputs = rng.normal(size=(n, codes.width)).astype(np.float32)
    if isinstance(codes, FittedMultilabel):
        return outputs, rng.integers(0, 2, outputs.shape).astype(np.float32)
    if codes.target.arrow_type == "string":
        return outputs, rng.integers(0, 4, n)
    return outputs, rng.integers(-6, 7, n) / 2


@pytest.mark.parametrize("missing_class", [False, True])
def test_class_metrics_are_scikit_learns(missing_class):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3 if missing_class else 4, 200)
    logits = rng.normal(size=(200, 4)) + 1.5 * np.eye(4)[truth] - [0, 0, 0, 99 * missing_class]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    predicted = p.argmax(1)
    expected = {"accuracy": sk.accuracy_score(truth, predicted)}
    for average in ("macro", "weighted"):
        scores = sk.precision_recall_fscore_support(truth, predicted, average=average)
        expected |= {f"{k}_{average}": v for k, v in zip(("precision", "recall", "f1"), scores)}
    auroc = math.nan if missing_class else sk.roc_auc_score(truth, p, multi_class="ovr", average="macro")
    one_hot = np.eye(4)[truth]
    expected |= {
        "auroc": auroc,
        "nll": sk.log_loss(truth, p, labels=range(4)),
        "brier": np.mean([sum((p[i] - one_hot[i]) ** 2) for i in range(200)]),
    }
    ours = class_metrics(p, predicted, truth)
    theirs = tm.multiclass_calibration_error(torch.from_numpy(p), torch.from_numpy(truth), 4, n_bins=15)
    assert ours["ece"] == pytest.approx(float(theirs), abs=1e-6)
    assert {name: ours[name] for name in expected} == pytest.approx(expected, abs=1e-12, nan_ok=True)
    np.testing.assert_array_equal(
        confusion_matrix(predicted, truth, 4), sk.confusion_matrix(truth, predicted, labels=range(4))
    )


def test_auroc_of_two_classes_with_ties_is_the_share_of_pairs_in_order():
    p = np.array([0.1, 0.4, 0.4, 0.8, 0.4])
    truth = np.array([0, 0, 1, 1, 0])
    pairs = [(a > b) + (a == b) / 2 for a in p[truth == 1] for b in p[truth == 0]]
    assert class_metrics(np.stack([1 - p, p], 1), (p > 0.5).astype(int), truth)["auroc"] == pytest.approx(
        np.mean(pairs)
    )


@pytest.mark.parametrize("classes", [1, 3])
def test_label_metrics_are_scikit_learns(classes):
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, (80, classes))
    p = (rng.random((80, classes)) + truth * 0.5) / 1.5
    predicted = (p > 0.5).astype(np.int64)
    if classes > 1:
        predicted[:, 0] = 0
    expected = {
        "f1_micro": sk.f1_score(truth.ravel(), predicted.ravel()),
        "f1_macro": np.mean([sk.f1_score(truth[:, c], predicted[:, c]) for c in range(classes)]),
        "subset_accuracy": sk.accuracy_score(truth, predicted),
        "hamming_loss": sk.hamming_loss(truth, predicted),
        "auroc": sk.roc_auc_score(truth, p, average="macro"),
        "nll": np.mean([sk.log_loss(truth[:, c], p[:, c]) for c in range(classes)]),
        "brier": np.mean([sk.brier_score_loss(truth[:, c], p[:, c]) for c in range(classes)]),
    }
    ece = label_metrics(p, predicted, truth).pop("ece")
    confident = torch.from_numpy(np.stack([1 - p.ravel(), p.ravel()], 1))
    theirs = tm.multiclass_calibration_error(confident, torch.from_numpy(truth.ravel()), 2, n_bins=15)
    assert ece == pytest.approx(float(theirs), abs=1e-6)
    expected["ece"] = ece
    assert label_metrics(p, predicted, truth) == pytest.approx(expected, abs=1e-6)
    truth[:, 0] = 1
    assert math.isnan(label_metrics(p, predicted, truth)["auroc"])


def test_number_metrics_are_scikit_learns_and_scipys():
    rng = np.random.default_rng(0)
    truth = rng.normal(100, 3, 50).round()  # with ties
    predicted = truth + rng.normal(1, 1, 50)
    x, y = predicted - predicted.mean(), truth - truth.mean()
    expected = {
        "mae": sk.mean_absolute_error(truth, predicted),
        "correlation": scipy.stats.pearsonr(truth, predicted)[0],
        "spearman": scipy.stats.spearmanr(truth, predicted)[0],
        "ccc": 2 * (x @ y) / (x @ x + y @ y + 50 * (predicted.mean() - truth.mean()) ** 2),
    }
    assert number_metrics(predicted, truth) == pytest.approx(expected, abs=1e-6)


def test_level_metrics_are_those_of_classes_and_numbers():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 5, (2, 60))
    assert level_metrics(predicted, truth, 5) == pytest.approx(
        {
            "mae": np.abs(truth - predicted).mean(),
            "accuracy": np.mean(truth == predicted),
            "f1_macro": sk.f1_score(truth, predicted, average="macro"),
            "f1_weighted": sk.f1_score(truth, predicted, average="weighted"),
            "spearman": scipy.stats.spearmanr(truth, predicted)[0],
        },
        abs=1e-6,
    )


def test_correlation_of_a_constant_is_undefined():
    numbers = np.array([1.0, 2, 3])
    for values in (number_metrics(np.full(3, 2.0), numbers), number_metrics(numbers[:1], numbers[:1])):
        assert all(math.isnan(values[name]) for name in ("correlation", "spearman", "ccc"))
    assert number_metrics(numbers * 1e-9, numbers)["correlation"] == pytest.approx(1)


# ------------------------------------------------------------------------------------ sentiment


def weighted_f1(predicted: list[bool], truth: list[bool]) -> float:
    """F1 of each side by its counts, weighted by how often the side is true."""
    total = 0.0
    for side in (False, True):
        hits = sum(p == t == side for p, t in zip(predicted, truth))
        sizes = predicted.count(side) + truth.count(side)
        total += (2 * hits / sizes if sizes else 0.0) * truth.count(side)
    return total / len(truth)


@pytest.mark.parametrize("n", [1, 7, 400])
def test_sentiment_metrics_are_those_of_a_loop_over_rows(n):
    """Scores in steps of 0.25: full of zeros and of ties between two whole numbers, also beyond the scale."""
    rng = np.random.default_rng(n)
    truth = rng.integers(-13, 14, n) / 4
    truth[0] = 2.5
    predicted = (truth + rng.integers(-8, 9, n) / 4) * rng.integers(0, 2, n)
    pairs = list(zip(predicted.tolist(), truth.tolist()))

    def same(top: int) -> float:
        return sum(round(max(-top, min(top, p))) == round(max(-top, min(top, t))) for p, t in pairs) / n

    has0 = [p >= 0 for p, _ in pairs], [t >= 0 for _, t in pairs]
    non0 = [p > 0 for p, t in pairs if t], [t > 0 for _, t in pairs if t]
    expected = {
        "acc2_has0": np.mean(np.equal(*has0)),
        "f1_has0": weighted_f1(*has0),
        "acc2_non0": np.mean(np.equal(*non0)),
        "f1_non0": weighted_f1(*non0),
        "acc5": same(2),
        "acc7": same(3),
    }
    ours = sentiment_metrics(predicted, truth)
    assert ours == pytest.approx(expected, abs=1e-6)
    assert ours["f1_has0"] == pytest.approx(sk.f1_score(*reversed(has0), average="weighted"), abs=1e-6)
    assert ours["f1_non0"] == pytest.approx(sk.f1_score(*reversed(non0), average="weighted"), abs=1e-6)


def test_sentiment_of_true_zeros_only_has_no_sides_without_zero():
    ours = sentiment_metrics(np.array([0.0, -0.2]), np.zeros(2))
    assert (ours["acc2_has0"], ours["acc5"], ours["acc7"]) == (0.5, 1, 1)
    assert math.isnan(ours["acc2_non0"])
    assert math.isnan(ours["f1_non0"])


def test_truths_of_a_target_reach_the_metrics_exactly():
    """A 0 that became -1e-9 on the way through the standardisation would change its side."""
    codes = FittedRegression(RegressionTarget(kind="regression", scale="sentiment"), 0.37, 1.41)
    truth = codes.encode(np.array([0.0, 1.0, -1.0, 0.0]))
    outputs = np.array([[1.0], [1.0], [-3.0], [1.0]], dtype=np.float32)
    assert codes.metrics(codes.decode(outputs), truth)["acc2_has0"] == 1
    assert codes.metrics(codes.decode(outputs), truth)["acc2_non0"] == 1


# ------------------------------------------------------------------------------------ every target


@pytest.mark.parametrize("kind", CODES)
def test_every_target_has_the_metrics_its_config_names(kind):
    codes = CODES[kind]
    outputs, truth = drawn(codes, 60)
    values = codes.metrics(codes.decode(outputs), truth)
    assert set(values) == set(codes.target.metric_names)
    assert all(math.isfinite(value) for value in values.values())
    nothing = codes.metrics(codes.decode(outputs[:0]), truth[:0])
    assert nothing.keys() == values.keys()
    assert all(math.isnan(value) for value in nothing.values())
    alone = codes.metrics(codes.decode(outputs[:1]), truth[:1])
    assert not all(math.isfinite(value) for value in alone.values())


@pytest.mark.parametrize("kind", CODES)
def test_row_scores_make_up_the_main_metric(kind):
    codes = CODES[kind]
    outputs, truth = drawn(codes, 50)
    parts, wholes = codes.row_scores(codes.decode(outputs), truth)
    main = codes.metrics(codes.decode(outputs), truth)[codes.target.metric_names[0]]
    assert parts.sum() / wholes.sum() == pytest.approx(main, abs=1e-6)
    low, high = bootstrap_interval(parts, wholes)
    assert low < main < high


def test_one_class_is_always_right():
    codes = FittedClassification(ClassificationTarget(kind="classification", classes=["a"]))
    values = codes.metrics(codes.decode(np.zeros((4, 1), np.float32)), np.zeros(4, np.int64))
    assert math.isnan(values.pop("auroc"))
    assert [values.pop(name) for name in ("nll", "brier", "ece")] == pytest.approx([0, 0, 0], abs=1e-6)
    assert set(values.values()) == {1.0}


@pytest.mark.parametrize(
    ("metric", "lower"),
    [
        ("val_loss", True),
        ("val/score/mae", True),
        ("val/tags/hamming_loss", True),
        ("val/score/correlation", False),
        ("val/mood/f1_macro", False),
        ("val/mood/auroc", False),
        ("score/acc7", False),
    ],
)
def test_direction(metric, lower):
    assert lower_is_better(metric) is lower


# ------------------------------------------------------------------------------------ over rows and seeds


def test_interval_of_a_proportion_is_the_normal_one():
    """For n rows of accuracy p the interval nears p ± 1.96 sqrt(p (1 - p) / n)."""
    right, ones = np.arange(2000) % 5 > 0, np.ones(2000)
    low, high = bootstrap_interval(right, ones)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 2000)
    assert (low, high) == pytest.approx((0.8 - half, 0.8 + half), abs=0.15 * half)
    assert (low, high) == bootstrap_interval(right, ones)
    assert (low, high) != bootstrap_interval(right, ones, seed=1)
    assert all(math.isnan(bound) for bound in bootstrap_interval(right[:0], ones[:0]))


def test_interval_over_seeds_and_rows_has_the_spread_of_both():
    """Row effects a and seed effects b, independent: var of the mean = var(a) / N + var(b) / S."""
    rng = np.random.default_rng(0)
    rows, seeds = rng.normal(0, 1, 400), rng.normal(0, 0.1, 20)
    scores = 5 + rows + seeds[:, None]
    low, high = bootstrap_interval(scores, np.ones_like(scores), resamples=2000)
    half = 1.96 * math.sqrt(rows.var() / 400 + seeds.var() / 20)
    assert (low, high) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.15 * half)
    repeated = bootstrap_interval(np.tile(rows, (5, 1)), np.ones((5, 400)), resamples=2000)
    half = 1.96 * math.sqrt(rows.var() / 400)
    assert repeated == pytest.approx((rows.mean() - half, rows.mean() + half), abs=0.15 * half)


def test_mean_and_std_over_seeds():
    assert mean_std([1.0, 2.0, 6.0]) == pytest.approx((3.0, math.sqrt((4 + 1 + 9) / 2)))
    assert mean_std([4.0])[0] == 4.0
    assert math.isnan(mean_std([4.0])[1])
    assert all(math.isnan(value) for value in [*mean_std([1.0, None]), *mean_std([])])
