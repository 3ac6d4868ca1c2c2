"""A number, learned in the train split's standard deviations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from mmray.targets.base import FittedTarget, Predicted, Target, fit_scale, known
from mmray.targets.metrics import NUMBERS, SENTIMENT_METRICS, number_metrics, sentiment_metrics

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["FittedRegression", "RegressionTarget"]


class RegressionTarget(Target):
    """A number."""

    kind: Literal["regression"]
    probabilistic: ClassVar[bool] = False
    loss: Literal["mse", "mae", "huber"] = "mse"
    """Of numbers in the train split's standard deviations; `huber` is linear beyond one of them."""
    scale: Literal["sentiment"] | None = None
    """`sentiment`: a score from -3 to 3, also judged as the sentiment literature does (Acc-2, Acc-7 …)."""

    @property
    def arrow_type(self) -> "pa.DataType":
        """float64."""
        import pyarrow as pa

        return pa.float64()

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Mean absolute error first."""
        return NUMBERS + SENTIMENT_METRICS if self.scale == "sentiment" else NUMBERS

    def fit(self, name: str, values: np.ndarray, ids: np.ndarray, train: np.ndarray) -> "FittedRegression":
        """Mean and standard deviation of the train split."""
        return FittedRegression(self, *fit_scale(name, values, ids, train))

    def restore(self, fitted: Mapping[str, Any]) -> "FittedRegression":
        """With its mean and standard deviation."""
        return FittedRegression(self, **fitted)


@dataclass(frozen=True)
class FittedRegression(FittedTarget):
    """Numbers [N] float64, as they are (NaN is unknown); the model's are standardised."""

    target: RegressionTarget
    mean: float
    std: float

    @property
    def squared_error(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As its loss says."""
        return self.target.loss == "mse"

    @property
    def width(self) -> int:
        """One number."""
        return 1

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Numbers [N] float64: kept exact, for metrics that ask for the sign of a 0."""
        return values

    def for_table(self, values: np.ndarray) -> np.ndarray:
        """As they are."""
        return values

    def standardised(self, numbers: "Tensor") -> "Tensor":
        """Numbers → in standard deviations from the mean, float32."""
        return ((numbers - self.mean) / self.std).float()

    def prior(self, encoded: np.ndarray) -> np.ndarray:
        """The mean, standardised, [1]."""
        return np.array([(encoded[known(encoded)].mean() - self.mean) / self.std], dtype=np.float32)

    def loss_sum(self, y_BC: "Tensor", truth: "Tensor") -> "Tensor":
        """Of e in standard deviations: e², |e|, or Huber's e²/2 up to |e| = 1 and |e| - 1/2 beyond."""
        import torch
        from torch.nn import functional as F

        error = torch.where(truth.isnan(), 0.0, y_BC[:, 0] - self.standardised(truth))
        if self.target.loss == "mse":
            return error.square().sum()
        nothing = torch.zeros_like(error)
        if self.target.loss == "mae":
            return F.l1_loss(error, nothing, reduction="sum")
        return F.huber_loss(error, nothing, reduction="sum")

    def decode(self, outputs: np.ndarray) -> Predicted:
        """Outputs [N, 1] → numbers [N] float64 in the unit of the table."""
        return Predicted(outputs[:, 0].astype(np.float64) * self.std + self.mean)

    def _metrics(self, predicted: Predicted, truth: np.ndarray) -> dict[str, float]:
        values = number_metrics(predicted.values, truth)
        return values | (sentiment_metrics(predicted.values, truth) if self.target.scale else {})

    def row_scores(self, predicted: Predicted, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(absolute error, 1): the mean absolute error."""
        return np.abs(predicted.values - truth), np.ones(len(truth))

    def figure(self, predicted: Predicted, truth: np.ndarray, title: str) -> "Figure":
        """A point a row."""
        from mmray.results.plots import scatter_figure

        return scatter_figure(truth, predicted.values, title)
