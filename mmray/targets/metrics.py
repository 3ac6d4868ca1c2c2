"""Predictions of a whole split against its truths → metrics; the arithmetic that kinds of targets share.

Pure functions of numpy arrays in float64, so that whoever computes them again from a table of predictions
gets the same digits; a metric that is not defined for the rows at hand is NaN.

Shapes: N rows, C classes.
"""

import math
from collections.abc import Sequence

import numpy as np

__all__ = [
    "CALIBRATION",
    "LEVELS",
    "NUMBERS",
    "SENTIMENT",
    "SENTIMENT_METRICS",
    "calibration_error",
    "class_metrics",
    "confusion_matrix",
    "label_metrics",
    "level_metrics",
    "log_mean_exp",
    "log_sigmoid",
    "log_softmax",
    "number_metrics",
    "reliability",
    "sentiment_metrics",
    "sigmoid",
]

SENTIMENT = 3
"""A sentiment score lies in [-3, 3]."""
NUMBERS = ("mae", "correlation", "spearman", "ccc")
SENTIMENT_METRICS = ("acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "acc5", "acc7")
CALIBRATION = ("nll", "brier", "ece")
LEVELS = ("mae", "accuracy", "f1_macro", "f1_weighted", "spearman")
BINS = 15
"""Of confidences, as in Guo et al. 2017."""


# ------------------------------------------------------------------------------------ logits


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logits [N, C] → log probabilities [N, C] of their type."""
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def log_sigmoid(logits: np.ndarray) -> np.ndarray:
    """Log 1 / (1 + e^-x), of the type of x."""
    return np.minimum(logits, 0) - np.log1p(np.exp(-np.abs(logits)))


def log_mean_exp(logs: Sequence[np.ndarray]) -> np.ndarray:
    """Logarithms of equal shape → the logarithm of the mean of what they are of."""
    return np.logaddexp.reduce(logs, axis=0) - np.float32(math.log(len(logs)))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x), of the type of x."""
    return np.exp(log_sigmoid(logits))


# ------------------------------------------------------------------------------------ classes


def class_metrics(probabilities: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """One of C classes: probabilities [N, C], predicted and true classes [N] int64.

    AUROC is the mean over classes of each against the rest; undefined where a class has no true row. `nll`
    is the mean cross-entropy, `brier` the mean over rows of the squared distance to the truth (Brier 1950,
    "Verification of forecasts expressed in terms of probability"), `ece` is `calibration_error`.
    """
    p, rows = probabilities.astype(np.float64), np.arange(len(truth))
    classes = p.shape[1]
    one_hot = np.eye(classes)[truth]
    every_class = classes > 1 and np.bincount(truth, minlength=classes).all()
    return {
        **_agreement(predicted, truth, classes),
        "auroc": _mean_auroc(p, one_hot) if every_class else math.nan,
        "nll": float(-np.log(_inside(p, probabilities.dtype)[rows, truth]).mean()),
        "brier": float(((p - one_hot) ** 2).sum(1).mean()),
        "ece": calibration_error(p.max(1), predicted == truth),
    }


def label_metrics(probabilities: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Any of C classes: probabilities [N, C], predicted and true ones [N, C] int64 of 0 and 1.

    F1 over all pairs of row and class (micro), and its mean over classes (macro: 0 for one neither
    predicted nor true); the share of rows whose whole set is right; the share of pairs that are wrong;
    AUROC as the mean over classes, undefined where a class is true in no row or in every one; `nll`,
    `brier` and `ece` as means over pairs.
    """
    p = probabilities.astype(np.float64)
    hits, sizes = 2 * truth * predicted, truth + predicted  # 2 TP; 2 TP + FP + FN
    both_ways = ((truth.sum(0) > 0) & (truth.sum(0) < len(truth))).all()
    of_truth = _inside(np.where(truth > 0, p, 1 - p), probabilities.dtype)
    return {
        "f1_micro": float(hits.sum() / sizes.sum()) if sizes.any() else 0.0,
        "f1_macro": float(np.mean(hits.sum(0) / np.maximum(sizes.sum(0), 1))),
        "subset_accuracy": float((predicted == truth).all(1).mean()),
        "hamming_loss": float((predicted != truth).mean()),
        "auroc": _mean_auroc(p, truth) if both_ways else math.nan,
        "nll": float(-np.log(of_truth).mean()),
        "brier": float(((p - truth) ** 2).mean()),
        "ece": calibration_error(np.maximum(p, 1 - p).ravel(), ((p >= 0.5) == (truth > 0)).ravel()),
    }


def confusion_matrix(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Counts [C, C] int64: rows are true classes, columns predicted ones."""
    return np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)


def _agreement(predicted: np.ndarray, truth: np.ndarray, classes: int) -> dict[str, float]:
    """Accuracy, and precision, recall and F1 of each class as their mean.

    Plain over classes (`macro`: one neither predicted nor true does not count), or `weighted` by true rows.
    A ratio without a denominator is 0.
    """
    counts = confusion_matrix(predicted, truth, classes)
    hits, said, true = counts.diagonal(), counts.sum(0), counts.sum(1)
    met = said + true > 0
    ratios = {
        "precision": hits / np.maximum(said, 1),
        "recall": hits / np.maximum(true, 1),
        "f1": 2 * hits / np.maximum(said + true, 1),
    }
    return {
        "accuracy": float(hits.sum() / len(truth)),
        **{f"{name}_macro": float(ratio[met].mean()) for name, ratio in ratios.items()},
        **{f"{name}_weighted": float(ratio @ true / len(truth)) for name, ratio in ratios.items()},
    }


def _mean_auroc(scores_NC: np.ndarray, truth_NC: np.ndarray) -> float:
    return float(np.mean([_auroc(scores_NC[:, c], truth_NC[:, c] > 0) for c in range(scores_NC.shape[1])]))


def _auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The share of pairs (positive, negative) in the right order, ties as half: Mann and Whitney's U."""
    ones = int(positive.sum())
    zeros = len(positive) - ones
    return float((_ranks(scores)[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, float64; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _inside(p: np.ndarray, stored: np.dtype) -> np.ndarray:
    """Probabilities away from 0 and 1 by what the stored type can tell apart: a logarithm stays finite."""
    eps = float(np.finfo(stored).eps)
    return p.clip(eps, 1 - eps)


# ------------------------------------------------------------------------------------ calibration


def reliability(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, mean confidence and share that is right in each of `BINS` equal bins of confidence, [BINS] each.

    An empty bin has NaN. DeGroot and Fienberg 1983, "The comparison and evaluation of forecasters".
    """
    bins = (confidence * BINS).astype(np.int64).clip(0, BINS - 1)
    rows = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        said = np.bincount(bins, weights=confidence, minlength=BINS) / rows
        true = np.bincount(bins, weights=right.astype(float), minlength=BINS) / rows
    return rows, said, true


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: mean over rows of |confidence - share right| of the row's bin.

    Guo et al. 2017, "On calibration of modern neural networks".
    """
    rows, said, true = reliability(confidence.astype(np.float64), right)
    some = rows > 0
    return float((rows[some] * np.abs(said - true)[some]).sum() / len(right))


# ------------------------------------------------------------------------------------ numbers


def level_metrics(predicted: np.ndarray, truth: np.ndarray, levels: int) -> dict[str, float]:
    """Ordered levels [N] int64: how many levels off on average, as classes, and their rank correlation."""
    numbers = number_metrics(predicted.astype(float), truth.astype(float))
    both = {**numbers, **_agreement(predicted, truth, levels)}
    return {name: both[name] for name in LEVELS}


def number_metrics(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Numbers [N]: mean absolute error, Pearson's and Spearman's correlation, and Lin's concordance.

    Undefined of fewer than two rows, or where either side is constant. Lin 1989, "A concordance correlation
    coefficient to evaluate reproducibility": 2 cov / (var + var + (mean - mean)²), of the population.
    """
    correlation = spearman = ccc = math.nan
    if len(truth) > 1 and predicted.min() < predicted.max() and truth.min() < truth.max():
        correlation, spearman = _pearson(predicted, truth), _pearson(_ranks(predicted), _ranks(truth))
        covariance = np.cov(predicted, truth, ddof=0)
        ccc = float(2 * covariance[0, 1] / (np.trace(covariance) + (predicted.mean() - truth.mean()) ** 2))
    mae = float(np.abs(predicted - truth).mean())
    return {"mae": mae, "correlation": correlation, "spearman": spearman, "ccc": ccc}


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(a @ a) * math.sqrt(b @ b)
    return float(np.clip(a @ b / scale, -1, 1)) if scale else math.nan


def sentiment_metrics(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Scores from -3 to 3, [N], as MMSA (Mao et al. 2022, "M-SENA") judges CMU-MOSI and MOSEI.

    `has0`: at least 0 against below 0. `non0`: above 0 against the rest, without the rows that are truly 0.
    `f1` is weighted by the true rows of the two sides. `acc5`, `acc7`: both clipped to [-2, 2] or [-3, 3]
    and rounded, half to even.
    """
    signed = truth != 0
    return {
        **_two_sides(predicted >= 0, truth >= 0, "has0"),
        **_two_sides(predicted[signed] > 0, truth[signed] > 0, "non0"),
        **{
            f"acc{2 * top + 1}": float(np.mean(_rounded(predicted, top) == _rounded(truth, top)))
            for top in (2, SENTIMENT)
        },
    }


def _two_sides(predicted: np.ndarray, truth: np.ndarray, name: str) -> dict[str, float]:
    if not len(truth):
        return {f"acc2_{name}": math.nan, f"f1_{name}": math.nan}
    values = _agreement(predicted.astype(np.int64), truth.astype(np.int64), 2)
    return {f"acc2_{name}": values["accuracy"], f"f1_{name}": values["f1_weighted"]}


def _rounded(scores: np.ndarray, top: int) -> np.ndarray:
    return scores.clip(-top, top).round()
