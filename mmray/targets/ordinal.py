"""One of several ordered levels: the logits of being above each threshold (CORAL)."""

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
    class_indices,
    class_shares,
    fit_classes,
    fit_scale,
)
from mmray.targets.metrics import (
    LEVELS,
    NUMBERS,
    SENTIMENT,
    SENTIMENT_METRICS,
    confusion_matrix,
    level_metrics,
    log_mean_exp,
    log_sigmoid,
    number_metrics,
    sentiment_metrics,
    sigmoid,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure
    from torch import Tensor

    from mmray.fusion.heads import Thresholds

__all__ = ["FittedOrdinal", "OrdinalTarget"]


class OrdinalTarget(Target):
    """One of several ordered levels: named classes, or a sentiment score rounded to -3 … 3."""

    kind: Literal["ordinal"]
    classes: Annotated[Classes, Field(min_length=3)] | None = None
    """Names from the lowest to the highest."""
    scale: Literal["sentiment"] | None = None
    """`sentiment`: the levels are -3 … 3, truth and prediction are numbers."""

    @model_validator(mode="after")
    def _classes_or_scale(self) -> Self:
        if (self.classes is None) == (self.scale is None):
            raise ValueError("give classes, from the lowest to the highest, or scale: sentiment")
        return self

    @property
    def arrow_type(self) -> "pa.DataType":
        """A class is a string, a score a float64."""
        import pyarrow as pa

        return pa.string() if self.classes else pa.float64()

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Mean absolute error first, in levels or in the scale."""
        return LEVELS if self.classes else NUMBERS + SENTIMENT_METRICS

    def fit(self, name: str, values: np.ndarray, ids: np.ndarray, train: np.ndarray) -> "FittedOrdinal":
        """Its levels are given; the train split must hold some."""
        if self.classes:
            fit_classes(name, self.classes, values, ids, train)
        else:
            fit_scale(name, values, ids, train)
        return FittedOrdinal(self)

    def restore(self, fitted: Mapping[str, Any]) -> "FittedOrdinal":
        """As it is: nothing is fitted."""
        return FittedOrdinal(self)


@dataclass(frozen=True)
class FittedOrdinal(FittedTarget):
    """Ordered levels ⇄ 0 … L - 1 [N] int64; -1 (a class) or NaN (a score) is an unknown truth.

    With a scale the truth stays the score it is, for metrics and the table; the loss takes its level.
    """

    target: OrdinalTarget

    @property
    def names(self) -> list[str]:
        """Levels from the lowest to the highest."""
        return self.target.classes or [str(score) for score in range(-SENTIMENT, SENTIMENT + 1)]

    @property
    def width(self) -> "Thresholds":
        """A logit a threshold."""
        from mmray.fusion.heads import Thresholds

        return Thresholds(len(self.names) - 1)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Labels [N] → levels [N] int64; scores [N] float64 as they are."""
        return class_indices(self.names, values) if self.target.classes else values

    def for_table(self, values: np.ndarray) -> np.ndarray | list[str]:
        """Levels → their names; scores as they are."""
        return [self.names[level] for level in values] if self.target.classes else values

    def level(self, encoded: "Tensor") -> "Tensor":
        """Encoded truths → levels int64; -1 unknown. A score goes to the nearest (half to even)."""
        import torch

        if not encoded.is_floating_point():
            return encoded
        levels = encoded.nan_to_num().clamp(-SENTIMENT, SENTIMENT).round().long() + SENTIMENT
        return torch.where(encoded.isnan(), -1, levels)

    def prior(self, encoded: np.ndarray) -> np.ndarray:
        """Log odds of being above each threshold, [L - 1]; every level counted once more."""
        import torch

        shares = class_shares(self.level(torch.from_numpy(encoded)).numpy(), len(self.names))
        below = shares.cumsum()[:-1]
        return np.log((1 - below) / below).astype(np.float32)

    def loss_sum(self, y_BC: "Tensor", truth: "Tensor") -> "Tensor":
        """Binary cross-entropy of being above each threshold, summed over thresholds (CORAL)."""
        import torch
        from torch.nn import functional as F

        levels = self.level(truth)[:, None]
        above_BK = (levels > torch.arange(y_BC.shape[1], device=levels.device)).to(y_BC)
        losses_BK = F.binary_cross_entropy_with_logits(y_BC, above_BK, reduction="none")
        return torch.where(levels < 0, 0.0, losses_BK).sum()

    def decode(self, outputs: np.ndarray) -> Predicted:
        """Logits [N, L - 1] → the level (thresholds more likely passed than not), or the expected score.

        The level is the median of the predicted distribution, the best guess for an absolute error.
        """
        p = -np.diff(sigmoid(outputs), axis=1, prepend=1.0, append=0.0).astype(np.float32)
        if self.target.classes:
            return Predicted((outputs > 0).sum(1), p)
        return Predicted(sigmoid(outputs.astype(np.float64)).sum(1) - SENTIMENT, p)

    def averaged(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """The log odds of the mean probabilities."""
        yes, no = (log_mean_exp([log_sigmoid(sign * y) for y in outputs]) for sign in (1, -1))
        return yes - no

    def _metrics(self, predicted: Predicted, truth: np.ndarray) -> dict[str, float]:
        if self.target.classes:
            return level_metrics(predicted.values, truth, len(self.names))
        return number_metrics(predicted.values, truth) | sentiment_metrics(predicted.values, truth)

    def row_scores(self, predicted: Predicted, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(absolute error, 1): the mean absolute error."""
        return np.abs(predicted.values - truth).astype(float), np.ones(len(truth))

    def confusion(self, predicted: Predicted, truth: np.ndarray) -> np.ndarray | None:
        """Of named levels."""
        if not self.target.classes:
            return None
        return confusion_matrix(predicted.values, truth, len(self.names))

    def figure(self, predicted: Predicted, truth: np.ndarray, title: str) -> "Figure":
        """The confusion matrix of levels, or a point a row."""
        from mmray.results.plots import confusion_figure, scatter_figure

        counts = self.confusion(predicted, truth)
        if counts is not None:
            return confusion_figure(counts, self.names, title)
        return scatter_figure(truth, predicted.values, title)
