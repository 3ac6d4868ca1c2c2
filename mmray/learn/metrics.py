"""Predictions of a whole split → metrics, the constant predictor to compare with, an interval.

Classes are indices (int), numbers are in the unit of the table. `classes` is how many there are, or None
for a number. The main metric (accuracy, mean absolute error) is a mean over rows, so its bootstrap
resamples the rows' own scores.
"""

import math
import warnings

import numpy as np
import torch

__all__ = [
    "bootstrap_interval",
    "confusion_matrix",
    "lower_is_better",
    "main_metric",
    "majority_metrics",
    "target_metrics",
]


def main_metric(classes: int | None) -> str:
    """The one metric a target is judged by."""
    return "mae" if classes is None else "accuracy"


def lower_is_better(metric: str) -> bool:
    """Direction of a metric, by the last part of its name: `val_loss`, `val/sentiment/mae`."""
    return metric.endswith(("loss", "mae"))


def target_metrics(predicted: np.ndarray, truth: np.ndarray, classes: int | None) -> dict[str, float]:
    """Metrics of predictions [N] against truths [N]; NaN where they are undefined.

    Classes: accuracy and the unweighted means over classes of precision, recall and F1; a class that is
    neither predicted nor true does not count. Numbers: mean absolute error and Pearson's correlation.
    """
    if not len(truth):
        names = ("mae", "correlation") if classes is None else _CLASS_METRICS
        return dict.fromkeys(names, math.nan)
    a, b = torch.as_tensor(predicted), torch.as_tensor(truth)
    return _number_metrics(a, b) if classes is None else _class_metrics(a, b, classes)


_CLASS_METRICS = ("accuracy", "f1_macro", "precision_macro", "recall_macro")

# torchmetrics is imported where it is used: it brings torchvision and transformers, 4 s and 250 MB that
# workers which only train or predict need not spend.


def _class_metrics(a: torch.Tensor, b: torch.Tensor, classes: int) -> dict[str, float]:
    from torchmetrics.functional import classification as tm

    c = max(classes, 2)  # torchmetrics refuses a single class
    return {
        "accuracy": float(tm.multiclass_accuracy(a, b, c, average="micro")),
        "f1_macro": float(tm.multiclass_f1_score(a, b, c, average="macro")),
        "precision_macro": float(tm.multiclass_precision(a, b, c, average="macro")),
        "recall_macro": float(tm.multiclass_recall(a, b, c, average="macro")),
    }


def _number_metrics(a: torch.Tensor, b: torch.Tensor) -> dict[str, float]:
    from torchmetrics import functional as tm

    correlation = math.nan  # of fewer than two rows, or where either side is constant
    if len(a) > 1 and a.min() < a.max() and b.min() < b.max():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The variance of predictions or target is close to zero")
            correlation = float(tm.pearson_corrcoef(a, b))
    return {"mae": float(tm.mean_absolute_error(a, b)), "correlation": correlation}


def confusion_matrix(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Counts [C, C] int64: rows are true classes, columns predicted ones."""
    return np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)


def majority_metrics(train: np.ndarray, test: np.ndarray, classes: int | None) -> dict[str, float]:
    """Metrics on `test` of the best constant `train` offers: its most frequent class, or its mean."""
    constant = train.mean() if classes is None else np.bincount(train, minlength=classes).argmax()
    return target_metrics(np.full(len(test), constant), test, classes)


def bootstrap_interval(
    predicted: np.ndarray, truth: np.ndarray, classes: int | None, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the main metric: its 2.5 and 97.5 percentiles over resamples of the rows.

    Efron 1979, "Bootstrap methods: another look at the jackknife", percentile form.
    """
    if not len(truth):
        return math.nan, math.nan
    scores = np.abs(predicted - truth) if classes is None else (predicted == truth).astype(float)
    rng = np.random.default_rng(seed)
    means = [scores[rng.integers(len(scores), size=len(scores))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
