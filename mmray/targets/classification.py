"""One of several classes: a softmax, cross-entropy, and a temperature that says how sure it is."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    class_indices,
    class_shares,
    class_weights,
    fit_classes,
    known,
    require_classes,
)
from mmray.targets.metrics import class_metrics, confusion_matrix, log_mean_exp, log_softmax

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["ClassificationTarget", "FittedClassification"]


class ClassificationTarget(Target):
    """One of several classes."""

    kind: Literal["classification"]
    classes: Classes | None = None
    """Names in the order of the outputs; default: the sorted labels of the train split."""
    class_weights: Weights | None = None
    """Weight of a row in the loss by its class: {class: weight} (1 where not named), or `balanced`: rows /
    (classes × rows of the class) in the train split; default: every row counts the same."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the truth that the loss spreads evenly over all classes."""

    @model_validator(mode="after")
    def _weights_name_classes(self) -> Self:
        require_classes(self.class_weights, self.classes, "class_weights")
        return self

    @property
    def arrow_type(self) -> "pa.DataType":
        """A class is a string."""
        import pyarrow as pa

        return pa.string()

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Accuracy first."""
        return (
            "accuracy",
            *("f1_macro", "f1_weighted", "precision_macro", "precision_weighted"),
            *("recall_macro", "recall_weighted", "auroc", "nll", "brier", "ece"),
        )

    def fit(
        self, name: str, values: np.ndarray, ids: np.ndarray, train: np.ndarray
    ) -> "FittedClassification":
        """Classes, and their weights, from the train split."""
        classes = fit_classes(name, self.classes, values, ids, train)
        truth = class_indices(classes, values[train])
        counts = np.bincount(truth[known(truth)], minlength=len(classes))
        balanced = counts.sum() / (len(classes) * np.maximum(counts, 1))
        weights = class_weights(name, self.class_weights, classes, balanced)
        return FittedClassification(self.model_copy(update={"classes": classes, "class_weights": weights}))

    def restore(self, fitted: Mapping[str, Any]) -> "FittedClassification":
        """With its temperature."""
        return FittedClassification(self, **fitted)


@dataclass(frozen=True)
class FittedClassification(FittedTarget):
    """Class names ⇄ indices [N] int64; -1 is an unknown truth."""

    target: ClassificationTarget
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
        """Labels [N] (None: unknown) → indices [N] int64; -1 for an unknown label or none of the classes."""
        return class_indices(self.names, values)

    def for_table(self, values: np.ndarray) -> list[str]:
        """Class indices → class names."""
        return [self.names[index] for index in values]

    def prior(self, encoded: np.ndarray) -> np.ndarray:
        """Log share of each class among encoded truths, [C]; every class counted once more."""
        return np.log(class_shares(encoded, self.width)).astype(np.float32)

    def row_weights(self, encoded: np.ndarray) -> np.ndarray:
        """What its class is given, else 1."""
        if not self.target.class_weights:
            return known(encoded).astype(float)
        return np.append(self._weights(), 0.0)[encoded]  # unknown: -1

    def _weights(self) -> list[float]:
        weights = self.target.class_weights
        assert isinstance(weights, dict), "fitting gives every class its weight"
        return [weights[label] for label in self.names]

    def loss_sum(self, y_BC: "Tensor", truth: "Tensor") -> "Tensor":
        """Cross-entropy, smoothed labels, each class's term times its weight.

        Smoothing: Szegedy et al. 2016, "Rethinking the inception architecture".
        """
        from torch.nn import functional as F

        return F.cross_entropy(
            y_BC,
            truth,
            weight=y_BC.new_tensor(self._weights()) if self.target.class_weights else None,
            ignore_index=-1,
            label_smoothing=self.target.label_smoothing,
            reduction="sum",
        )

    def decode(self, outputs: np.ndarray) -> Predicted:
        """Logits [N, C] → the likeliest class, and the probabilities of all."""
        return Predicted(outputs.argmax(1), np.exp(log_softmax(outputs / self.temperature)))

    def calibrated(self, outputs: np.ndarray, truth: np.ndarray) -> Self:
        """With the temperature of the smallest cross-entropy."""
        logits, rows = outputs.astype(np.float64), np.arange(len(truth))
        fitted = best_temperature(lambda t: -log_softmax(logits / t)[rows, truth].sum())
        return dataclasses.replace(self, temperature=fitted)

    def uncalibrated(self) -> Self:
        """With a temperature of 1."""
        return dataclasses.replace(self, temperature=1.0)

    def averaged(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """The logarithm of the mean probabilities."""
        return log_mean_exp([log_softmax(y) for y in outputs])

    def _metrics(self, predicted: Predicted, truth: np.ndarray) -> dict[str, float]:
        assert predicted.probabilities is not None
        return class_metrics(predicted.probabilities, predicted.values, truth)

    def row_scores(self, predicted: Predicted, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(right, 1): the accuracy."""
        return (predicted.values == truth).astype(float), np.ones(len(truth))

    def confusion(self, predicted: Predicted, truth: np.ndarray) -> np.ndarray:
        """Of classes."""
        return confusion_matrix(predicted.values, truth, self.width)

    def confidence(self, predicted: Predicted, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Of the predicted class."""
        if predicted.probabilities is None:
            return None
        return predicted.probabilities.max(1), predicted.values == truth

    def figure(self, predicted: Predicted, truth: np.ndarray, title: str) -> "Figure":
        """The confusion matrix."""
        from mmray.results.plots import confusion_figure

        return confusion_figure(self.confusion(predicted, truth), self.names, title)
