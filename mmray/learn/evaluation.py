"""Outputs for a whole split → its loss and metrics, the best epoch so far, the report on the test split."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmray.learn.batches import Examples
from mmray.learn.codes import ClassCodes, known
from mmray.learn.metrics import (
    bootstrap_interval,
    confusion_matrix,
    lower_is_better,
    main_metric,
    majority_metrics,
    target_metrics,
)
from mmray.learn.spec import ModelSpec

__all__ = ["known_counts", "loss_sums", "standing", "test_report", "validation_metrics"]


def known_counts(targets: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, int]:
    """{target: how many of these rows have a known truth}, at least 1: a divisor of `loss_sums`."""
    return {name: max(int(known(truth[rows]).sum()), 1) for name, truth in targets.items()}


def loss_sums(outputs: Mapping[str, Tensor], truths: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """{target: loss summed over the rows whose truth is known}; 0 with a zero gradient where none is.

    Cross-entropy of logits [B, C] and indices [B] int64; squared error of [B, 1] and numbers [B] float32.
    """
    losses = {}
    for name, truth in truths.items():
        y = outputs[name]
        if truth.is_floating_point():
            losses[name] = torch.where(truth.isnan(), 0.0, y[:, 0] - truth).square().sum()
        else:
            losses[name] = F.cross_entropy(y, truth, ignore_index=-1, reduction="sum")
    return losses


def validation_metrics(
    spec: ModelSpec, examples: Examples, rows: np.ndarray, outputs: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """`val_loss` and `val/<target>/<metric>` from the outputs {target: [len(rows), C]} for these rows."""
    truths = {name: torch.from_numpy(examples.targets[name][rows]) for name in spec.targets}
    sums = loss_sums({name: torch.from_numpy(y) for name, y in outputs.items()}, truths)
    counts = known_counts(examples.targets, rows)
    results = {"val_loss": sum(value.item() / counts[name] for name, value in sums.items())}
    for name in spec.targets:
        predicted, truth, classes = _comparable(spec, examples, rows, outputs, name)
        metrics = target_metrics(predicted, truth, classes)
        results |= {f"val/{name}/{metric}": value for metric, value in metrics.items()}
    return results


def standing(history: Sequence[Mapping[str, float]], monitor: str) -> dict[str, float]:
    """`best_epoch` (from 1; the first of equals) and `bad_epochs` since, by `loss` or `<target>/<metric>`.

    An undefined value is never better than a defined one.
    """
    key = "val_loss" if monitor == "loss" else f"val/{monitor}"
    sign = 1 if lower_is_better(key) else -1
    scores = [math.inf if math.isnan(epoch[key]) else sign * epoch[key] for epoch in history]
    best = scores.index(min(scores)) + 1
    return {"best_epoch": best, "bad_epochs": len(history) - best}


def test_report(
    spec: ModelSpec,
    examples: Examples,
    train: np.ndarray,
    test: np.ndarray,
    outputs: Mapping[str, np.ndarray],
) -> dict[str, dict]:
    """{target: {rows, metrics, main, interval, majority, confusion}} for the `test` rows.

    `main` names the metric `interval` is about; `majority` is the metrics of the constant that the `train`
    rows suggest; `confusion` (classes only) has true classes in rows.
    """
    report = {}
    for name, codes in spec.targets.items():
        predicted, truth, classes = _comparable(spec, examples, test, outputs, name)
        seen = examples.targets[name][train]
        report[name] = {
            "rows": len(truth),
            "metrics": target_metrics(predicted, truth, classes),
            "main": main_metric(classes),
            "interval": list(bootstrap_interval(predicted, truth, classes)),
            "majority": majority_metrics(codes.truth(seen[known(seen)]), truth, classes),
        }
        if classes is not None:
            report[name]["confusion"] = confusion_matrix(predicted, truth, classes).tolist()
    return report


def _comparable(
    spec: ModelSpec, examples: Examples, rows: np.ndarray, outputs: Mapping[str, np.ndarray], target: str
) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Predictions and truths of the rows whose truth is known, and the number of classes."""
    codes, truth = spec.targets[target], examples.targets[target][rows]
    usable = known(truth)
    classes = codes.width if isinstance(codes, ClassCodes) else None
    return codes.predicted(outputs[target][usable]), codes.truth(truth[usable]), classes
