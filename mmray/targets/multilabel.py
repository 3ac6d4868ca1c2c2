"""Any number of several classes at once: a sigmoid a class."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from mmray.targets.base import (
    Classes,
    FittedTarget,
    Predicted,
    Target,
    Weights,
    best_temperature,
    class_weights,
    fit_classes,
    known,
    require_classes,
)
from mmray.targets.metrics import label_metrics, log_mean_exp, log_sigmoid

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["FittedMultilabel", "MultilabelTarget"]


class MultilabelTarget(Target):
    """Any number of several classes at once: a list in the manifest, `a|b` in a CSV."""

    kind: Literal["multilabel"]
    classes: Classes | None = None
    """Names in the order of the outputs; default: the sorted labels of the train split."""
    positive_weights: Weights | None = None
    """Weight of a class's loss where it is true: {class: weight} (1 where not named), or `balanced`:
    (rows without it + 1) / (rows with it + 1) in the train split; default: 1."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Smallest probability at which a class is predicted."""

    @model_validator(mode="after")
    def _weights_name_classes(self) -> Self:
        require_classes(self.positive_weights, self.classes, "positive_weights")
        return self

    @property
    def arrow_type(self) -> "pa.DataType":
        """A set of classes is a list of strings; [] is none of them, null an unknown truth."""
        import pyarrow as pa

        return pa.list_(pa.string())

    @property
    def metric_names(self) -> tuple[str, ...]:
        """F1 over all pairs of row and class first."""
        return ("f1_micro", "f1_macro", "subset_accuracy", "hamming_loss", "auroc", "nll", "brier", "ece")

    def fit(self, name: str, values: np.ndarray, ids: np.ndarray, train: np.ndarray) -> "FittedMultilabel":
        """Classes, and their weights, from the train split."""
        classes = fit_classes(name, self.classes, values, ids, train)
        fitted = FittedMultilabel(self.model_copy(update={"classes": classes}))
        truth = fitted.encode(values[train])
        truth = truth[known(truth)]
        balanced = (len(truth) - truth.sum(0) + 1) / (truth.sum(0) + 1)
        weights = class_weights(name, self.positive_weights, classes, balanced)
        return FittedMultilabel(fitted.target.model_copy(update={"positive_weights": weights}))

    def restore(self, fitted: Mapping[str, Any]) -> "FittedMultilabel":
        """With its temperature."""
        return FittedMultilabel(self, **fitted)


@dataclass(frozen=True)
class FittedMultilabel(FittedTarget):
    """Sets of class names ⇄ a row of 0 and 1, one a class [N, C] float32; NaN is an unknown truth."""

    target: MultilabelTarget
    temperature: float = 1.0
    """What logits are divided by before they become probabilities."""

    @property
    def names(self) -> list[str]:
        """Classes in the order of the outputs."""
        return self.target.classes or []

    @property
    def width(self) -> int:
        """A logit a class."""
        return len(self.names)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Lists of labels [N] (None: unknown) → [N, C] float32; a label that is no class is left out."""
        column = {name: index for index, name in enumerate(self.names)}
        encoded = np.zeros((len(values), self.width), dtype=np.float32)
        for row, labels in enumerate(values):
            encoded[row] = np.nan if labels is None else 0
            encoded[row, [column[label] for label in labels or () if label in column]] = 1
        return encoded

    def for_table(self, values: np.ndarray) -> list[list[str]]:
        """Rows of 0 and 1 → names of the classes that are 1."""
        return [list(compress(self.names, row)) for row in values]

    def prior(self, encoded: np.ndarray) -> np.ndarray:
        """Log odds of each class among encoded truths, [C]; one row with it and one without more."""
        truth = encoded[known(encoded)]
        return np.log((truth.sum(0) + 1) / (len(truth) - truth.sum(0) + 1)).astype(np.float32)

    def loss_sum(self, y_BC: "Tensor", truth: "Tensor") -> "Tensor":
        """Binary cross-entropy, mean over the classes, the positives' term times its weight."""
        import torch
        from torch.nn import functional as F

        weights = self.target.positive_weights
        assert not isinstance(weights, str), "fitting gives every class its weight"
        losses_BC = F.binary_cross_entropy_with_logits(
            y_BC,
            truth.nan_to_num(),
            pos_weight=y_BC.new_tensor([weights[label] for label in self.names]) if weights else None,
            reduction="none",
        )
        return torch.where(truth.isnan(), 0.0, losses_BC).mean(1).sum()

    def decode(self, outputs: np.ndarray) -> Predicted:
        """Logits [N, C] → 1 where a class reaches the threshold [N, C] int64; probabilities [N, C]."""
        p = np.exp(log_sigmoid(outputs / self.temperature))
        return Predicted((p >= self.target.threshold).astype(np.int64), p)

    def calibrated(self, outputs: np.ndarray, truth: np.ndarray) -> Self:
        """With the temperature of the smallest cross-entropy, where that moves no prediction.

        At another threshold than a half, a temperature changes what is predicted: then there is none.
        """
        if self.target.threshold != 0.5:
            return self
        signed = outputs.astype(np.float64) * (2 * truth - 1)
        return dataclasses.replace(
            self, temperature=best_temperature(lambda t: -log_sigmoid(signed / t).sum())
        )

    def uncalibrated(self) -> Self:
        """With a temperature of 1."""
        return dataclasses.replace(self, temperature=1.0)

    def averaged(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """The log odds of the mean probabilities."""
        yes, no = (log_mean_exp([log_sigmoid(sign * y) for y in outputs]) for sign in (1, -1))
        return yes - no

    def _metrics(self, predicted: Predicted, truth: np.ndarray) -> dict[str, float]:
        assert predicted.probabilities is not None
        return label_metrics(predicted.probabilities, predicted.values, truth.astype(np.int64))

    def row_scores(self, predicted: Predicted, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(2 TP, 2 TP + FP + FN): F1 over all pairs of row and class."""
        hits, sizes = 2.0 * (truth * predicted.values).sum(1), (truth + predicted.values).sum(1)
        return hits.astype(float), sizes.astype(float)

    def confidence(self, predicted: Predicted, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Of each pair of row and class."""
        if predicted.probabilities is None:
            return None
        p = predicted.probabilities
        return np.maximum(p, 1 - p).ravel(), ((p >= 0.5) == (truth > 0)).ravel()

    def figure(self, predicted: Predicted, truth: np.ndarray, title: str) -> "Figure":
        """Precision and recall of each class; NaN where it is never predicted, or never true."""
        from mmray.results.plots import labels_figure

        hits, said, true = (truth * predicted.values).sum(0), predicted.values.sum(0), truth.sum(0)
        scores = {
            label: (float(h / s) if s else math.nan, float(h / t) if t else math.nan)
            for label, h, s, t in zip(self.names, hits, said, true)
        }
        return labels_figure(scores, title)
