"""Predictions of a whole split against its truths → metrics.

Pure functions of arrays; a metric that is not defined for the rows at hand is NaN. Their names and
directions are in `mmray.config.metrics`; the interval of the main one is in `aggregate`.

Shapes: N rows, C classes.
"""

import math
import warnings

import numpy as np
import torch

from mmray.config.metrics import metric_names
from mmray.training.codes import SENTIMENT, ClassCodes, LabelCodes, LevelCodes, TargetCodes

__all__ = [
    "class_metrics",
    "confusion_matrix",
    "label_metrics",
    "level_metrics",
    "number_metrics",
    "sentiment_metrics",
    "target_metrics",
]

# torchmetrics is imported where it is used: it brings torchvision and transformers, 4 s and 250 MB that
# workers which only train or predict need not spend.


def target_metrics(codes: TargetCodes, outputs: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """A target's metrics, named by `config.metrics.metric_names`, from outputs [N, C] and known truths.

    `truth` is encoded, [N] or [N, C], by the target's codes.
    """
    if not len(truth):
        return dict.fromkeys(metric_names(codes.target), math.nan)
    predicted = codes.predicted(outputs)
    if isinstance(codes, ClassCodes):
        return class_metrics(codes.probabilities(outputs), truth)
    if isinstance(codes, LabelCodes):
        return label_metrics(codes.probabilities(outputs), predicted, truth.astype(np.int64))
    if isinstance(codes, LevelCodes) and codes.target.classes:
        return level_metrics(predicted, truth, len(codes.levels))
    sentiment = codes.target.scale == "sentiment"
    return number_metrics(predicted, truth) | (sentiment_metrics(predicted, truth) if sentiment else {})


def class_metrics(probabilities: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """One of C classes: probabilities [N, C], of which the largest is predicted, and truths [N] int64.

    AUROC is the mean over classes of each against the rest; undefined where a class has no true row.
    """
    from torchmetrics.functional import classification as tm

    y, p = torch.from_numpy(truth), torch.from_numpy(probabilities)
    classes = p.shape[1]
    every_class = classes > 1 and np.bincount(truth, minlength=classes).all()
    return {
        **_agreement(p.argmax(1), y, classes),
        "auroc": float(tm.multiclass_auroc(p, y, classes)) if every_class else math.nan,
    }


def _agreement(predicted: torch.Tensor, truth: torch.Tensor, classes: int) -> dict[str, float]:
    """Accuracy, and precision, recall and F1 of each class as their mean.

    Plain over classes (`macro`: one neither predicted nor true does not count), or `weighted` by true rows.
    """
    from torchmetrics.functional import classification as tm

    c = max(classes, 2)  # torchmetrics refuses a single class
    functions = {
        "precision": tm.multiclass_precision,
        "recall": tm.multiclass_recall,
        "f1": tm.multiclass_f1_score,
    }
    return {
        "accuracy": float(tm.multiclass_accuracy(predicted, truth, c, average="micro")),
        **{
            f"{name}_{average}": float(function(predicted, truth, c, average=average))
            for name, function in functions.items()
            for average in ("macro", "weighted")
        },
    }


def label_metrics(probabilities: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Any of C classes: probabilities [N, C], predicted and true ones [N, C] int64 of 0 and 1.

    F1 over all pairs of row and class (micro), and its mean over classes (macro: 0 for one neither
    predicted nor true); the share of rows whose whole set is right; the share of pairs that are wrong;
    AUROC as the mean over classes, undefined where a class is true in no row or in every one.
    """
    from torchmetrics.functional import classification as tm

    y, p = torch.from_numpy(truth), torch.from_numpy(probabilities)
    hits, sizes = 2 * truth * predicted, truth + predicted  # 2 TP; 2 TP + FP + FN
    both_ways = ((truth.sum(0) > 0) & (truth.sum(0) < len(truth))).all()
    aurocs = (
        [float(tm.binary_auroc(p[:, c], y[:, c])) for c in range(y.shape[1])] if both_ways else [math.nan]
    )
    return {
        "f1_micro": hits.sum() / sizes.sum() if sizes.any() else 0.0,
        "f1_macro": float(np.mean(hits.sum(0) / np.maximum(sizes.sum(0), 1))),
        "subset_accuracy": float((predicted == truth).all(1).mean()),
        "hamming_loss": float((predicted != truth).mean()),
        "auroc": float(np.mean(aurocs)),
    }


def level_metrics(predicted: np.ndarray, truth: np.ndarray, levels: int) -> dict[str, float]:
    """Ordered levels [N] int64: how many levels off on average, as classes, and their rank correlation."""
    a, b = torch.from_numpy(predicted), torch.from_numpy(truth)
    numbers = number_metrics(predicted.astype(float), truth.astype(float))
    names = ("mae", "accuracy", "f1_macro", "f1_weighted", "spearman")
    return {name: ({**numbers, **_agreement(a, b, levels)})[name] for name in names}


def number_metrics(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Numbers [N]: mean absolute error, Pearson's and Spearman's correlation, and Lin's concordance.

    Undefined of fewer than two rows, or where either side is constant. Lin 1989, "A concordance correlation
    coefficient to evaluate reproducibility": 2 cov / (var + var + (mean - mean)²), of the population.
    """
    from torchmetrics import functional as tm

    a, b = torch.from_numpy(predicted), torch.from_numpy(truth)
    correlation = spearman = ccc = math.nan
    if len(a) > 1 and a.min() < a.max() and b.min() < b.max():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The variance of predictions or target is close to zero")
            correlation = float(tm.pearson_corrcoef(a, b))
        spearman = float(tm.spearman_corrcoef(a, b))
        covariance = np.cov(predicted, truth, ddof=0)
        ccc = float(2 * covariance[0, 1] / (np.trace(covariance) + (predicted.mean() - truth.mean()) ** 2))
    mae = float(tm.mean_absolute_error(a, b))
    return {"mae": mae, "correlation": correlation, "spearman": spearman, "ccc": ccc}


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
    values = _agreement(torch.from_numpy(predicted).long(), torch.from_numpy(truth).long(), 2)
    return {f"acc2_{name}": values["accuracy"], f"f1_{name}": values["f1_weighted"]}


def _rounded(scores: np.ndarray, top: int) -> np.ndarray:
    return scores.clip(-top, top).round()


def confusion_matrix(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Counts [C, C] int64: rows are true classes, columns predicted ones."""
    return np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)
