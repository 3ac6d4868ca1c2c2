"""What a kind of target is: a `Target`, as a config gives it, and the `FittedTarget` training makes of it.

    Target         settings, the type of its column, the names of its metrics; `fit` on the train split
    FittedTarget   labels ⇄ numbers, loss, outputs → predictions, metrics, figure; stored with the model

A truth that is not known is -1 among integers and NaN among floats (`known`).

Shapes: N rows, B rows of a batch, C outputs of the target's head.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import AfterValidator, Field

from mmray.errors import SamplesError, TableError
from mmray.settings import PositiveFloat, Section

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = [
    "Classes",
    "FittedTarget",
    "Predicted",
    "Target",
    "Weights",
    "best_temperature",
    "class_indices",
    "class_shares",
    "class_weights",
    "fit_classes",
    "fit_scale",
    "known",
    "lower_is_better",
    "require_classes",
    "usable_std",
]


@dataclass(frozen=True)
class Predicted:
    """What a model says of N rows."""

    values: np.ndarray
    """In the form of encoded truths."""
    probabilities: np.ndarray | None = None
    """[N, K] of each name in `FittedTarget.names`, for the kinds that have them."""

    def __getitem__(self, rows: np.ndarray) -> "Predicted":
        return Predicted(self.values[rows], None if self.probabilities is None else self.probabilities[rows])


class Target(Section, ABC):
    """What is to be predicted, and the loss it is learned with."""

    kind: str
    probabilistic: ClassVar[bool] = True
    """Whether its predictions have probabilities."""

    @property
    @abstractmethod
    def arrow_type(self) -> "pa.DataType":
        """Of its column: string (a class), list<string> (a set of them) or float64 (a number)."""

    @property
    @abstractmethod
    def metric_names(self) -> tuple[str, ...]:
        """Its metrics, the main one first: a ratio of sums over rows, which has an interval."""

    @abstractmethod
    def fit(self, name: str, values: np.ndarray, ids: np.ndarray, train: np.ndarray) -> "FittedTarget":
        """Fit on the `values` [N] of target `name` in the rows where `train` [N] bool.

        Raises:
            SamplesError: where the train split has no known value, or some row has a label that is not
                among the classes (`ids` name the samples), or a weight is given for what is no class.

        """

    @abstractmethod
    def restore(self, fitted: Mapping[str, Any]) -> "FittedTarget":
        """The fitted target again, from what `FittedTarget.to_json` says was fitted."""

    def read(self, name: str, column: "pa.ChunkedArray") -> np.ndarray:
        """Its column in any table → values [N]: labels or lists of labels (None: unknown), or float64 (NaN).

        Raises:
            TableError: where the column is of another type.

        """
        import pyarrow as pa

        try:
            cast = column.cast(self.arrow_type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise TableError(
                f"target {name} ({self.kind}) cannot be read as {self.arrow_type}: {error}"
            ) from None
        if pa.types.is_floating(self.arrow_type):
            return cast.to_numpy()
        values = np.empty(len(cast), dtype=object)  # numpy alone would make a matrix of equally long lists
        values[:] = cast.to_pylist()
        return values

    def fields(self, name: str) -> "list[pa.Field]":
        """Its columns in a table of predictions."""
        import pyarrow as pa

        fields = [pa.field(name, self.arrow_type), pa.field(f"{name}_predicted", self.arrow_type)]
        if self.probabilistic:
            fields.append(pa.field(f"{name}_probabilities", pa.list_(pa.float32())))
        return fields


@dataclass(frozen=True)
class FittedTarget(ABC):
    """A target and what its train split says of it: classes, weights, scale; and how sure outputs are."""

    target: Any
    """The `Target`, complete: classes named, weights given."""

    squared_error: ClassVar[bool] = False
    """Whether the loss is a squared error, whose learned weight is half as large."""

    @property
    @abstractmethod
    def width(self) -> int:
        """C, outputs of the model; a `fusion.heads.Thresholds` where its head is an ordinal one."""

    @property
    def names(self) -> list[str] | None:
        """What the probabilities are about, in their order; None for a kind without."""
        return None

    @abstractmethod
    def encode(self, values: np.ndarray) -> np.ndarray:
        """Values of the table [N] → truths for loss and metrics, [N] or [N, C]."""

    @abstractmethod
    def for_table(self, values: np.ndarray) -> Any:
        """Encoded values, all known → values of the table: the way back from `encode`."""

    @abstractmethod
    def prior(self, encoded: np.ndarray) -> np.ndarray:
        """The outputs that fit encoded truths best where nothing is seen, [C] float32."""

    def row_weights(self, encoded: np.ndarray) -> np.ndarray:
        """What each row counts in the loss, [N] float64; 0 where the truth is not known."""
        return known(encoded).astype(float)

    @abstractmethod
    def loss_sum(self, y_BC: "Tensor", truth: "Tensor") -> "Tensor":
        """The loss summed over the rows whose truth is known; 0 with a zero gradient where none is."""

    @abstractmethod
    def decode(self, outputs: np.ndarray) -> Predicted:
        """Outputs [N, C] float32 → predictions."""

    def calibrated(self, outputs: np.ndarray, truth: np.ndarray) -> Self:
        """The same with a temperature under which these outputs say best how sure they are.

        `outputs` [N, C] and encoded truths, all known, of rows that nothing was learned from (validation).
        Predictions stay; probabilities change. A kind without probabilities is as it was.
        """
        return self

    def uncalibrated(self) -> Self:
        """The same with a temperature of 1: outputs as they are."""
        return self

    def averaged(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """The outputs [N, C] that say the mean of what several models' outputs [N, C] say, uncalibrated.

        Of numbers the mean; of probabilities the mean as well, as logits (Lakshminarayanan, Pritzel and
        Blundell 2017, "Simple and scalable predictive uncertainty estimation using deep ensembles").
        """
        return np.mean(outputs, axis=0)

    def metrics(self, predicted: Predicted, truth: np.ndarray) -> dict[str, float]:
        """{name: value} for all `metric_names`, of encoded truths that are all known; NaN: undefined."""
        if not len(truth):
            return dict.fromkeys(self.target.metric_names, math.nan)
        return self._metrics(predicted, truth)

    @abstractmethod
    def _metrics(self, predicted: Predicted, truth: np.ndarray) -> dict[str, float]: ...

    @abstractmethod
    def row_scores(self, predicted: Predicted, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each row's part of the main metric, [N] float64 each: sum of the first / sum of the second."""

    def confusion(self, predicted: Predicted, truth: np.ndarray) -> np.ndarray | None:
        """Counts [K, K] of true (rows) and predicted classes; None for a kind without."""
        return None

    def confidence(self, predicted: Predicted, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Probability of what was predicted and whether it was right, [N] each; None for a kind without."""
        return None

    @abstractmethod
    def figure(self, predicted: Predicted, truth: np.ndarray, title: str) -> "Figure":
        """Predictions against truths, for the report."""

    def to_json(self) -> dict[str, Any]:
        """The target as a config would give it, and what was fitted, as plain JSON values."""
        fitted = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "target"}
        return {"target": self.target.model_dump(mode="json"), **fitted}


def known(encoded: np.ndarray) -> np.ndarray:
    """[N] bool: which of a target's encoded truths are known."""
    if encoded.dtype == np.int64:
        return encoded >= 0
    return ~np.isnan(encoded if encoded.ndim == 1 else encoded.sum(1))


def lower_is_better(metric: str) -> bool:
    """Direction of a metric, by the last part of its name: `val_loss`, `val/sentiment/mae`."""
    return metric.endswith(("loss", "mae", "nll", "brier", "ece"))


# ------------------------------------------------------------------------------------ classes


def _distinct(classes: list[str]) -> list[str]:
    if len(set(classes)) < len(classes):
        raise ValueError("names a class twice")
    return classes


Classes = Annotated[list[str], Field(min_length=1), AfterValidator(_distinct)]
Weights = dict[str, PositiveFloat] | Literal["balanced"]


def require_classes(weights: Weights | None, classes: list[str] | None, setting: str) -> None:
    """Refuse weights of what is no class.

    Raises:
        ValueError: naming what is none.

    """
    if isinstance(weights, dict) and classes and (unknown := sorted(set(weights) - set(classes))):
        raise ValueError(f"{setting} names {', '.join(unknown)}, not among classes ({', '.join(classes)})")


def fit_classes(
    name: str, classes: list[str] | None, values: np.ndarray, ids: np.ndarray, train: np.ndarray
) -> list[str]:
    """The classes as configured, else the sorted labels of the train split, where all labels must be.

    Raises:
        SamplesError: where the train split has no label, or a row has one that is none of the classes.

    """
    labels = [_labels(value) for value in values]
    seen = sorted({*chain.from_iterable(compress(labels, train))})
    if not seen:
        raise SamplesError(f"target {name}: no sample of the train split has a label")
    among = f"targets.{name}.classes" if classes else "the labels of the train split"
    classes = classes or seen
    if unseen := sorted({*chain.from_iterable(labels)} - {*classes}):
        where = [sample_id for sample_id, some in zip(ids, labels) if not {*classes}.issuperset(some)]
        raise SamplesError(
            f"target {name}: {', '.join(map(repr, unseen))} not among {among} ({', '.join(classes)}); "
            f"for example sample {', '.join(where[:3])}"
        )
    return classes


def _labels(value: str | Sequence[str] | None) -> Sequence[str]:
    return [] if value is None else [value] if isinstance(value, str) else value


def class_weights(
    name: str, given: Mapping[str, float] | str | None, classes: Sequence[str], balanced: np.ndarray
) -> dict[str, float] | None:
    """A weight for every class, `balanced` [C] where so named; None where all count the same.

    Raises:
        SamplesError: where a weight is given for what is no class.

    """
    if given is None:
        return None
    if isinstance(given, str):
        return dict(zip(classes, balanced.tolist()))
    if unknown := sorted({*given} - {*classes}):
        raise SamplesError(
            f"target {name}: a weight is given for {', '.join(unknown)}, not among the classes "
            f"({', '.join(classes)})"
        )
    return {label: given.get(label, 1.0) for label in classes}


def class_indices(classes: Sequence[str], values: np.ndarray) -> np.ndarray:
    """Where each value stands among the classes, [N] int64; -1: nowhere."""
    position = {label: index for index, label in enumerate(classes)}
    return np.fromiter((position.get(value, -1) for value in values), np.int64, len(values))


def class_shares(encoded: np.ndarray, size: int) -> np.ndarray:
    """Shares of 0 … size - 1 among encoded truths, each counted once more."""
    counts = np.bincount(encoded[known(encoded)], minlength=size) + 1
    return counts / counts.sum()


# ------------------------------------------------------------------------------------ numbers


def fit_scale(name: str, values: np.ndarray, ids: np.ndarray, train: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the numbers of the train split.

    Raises:
        SamplesError: where there are none, or they overflow.

    """
    numbers = values[train & ~np.isnan(values)]
    if not len(numbers):
        raise SamplesError(f"target {name}: no sample of the train split has a value")
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = numbers.mean(), numbers.std()
    if not np.isfinite(std):
        extreme = ids[train][np.nanargmax(np.abs(values[train]))]
        raise SamplesError(f"target {name}: the train split's values overflow; look at sample {extreme}")
    return float(mean), float(usable_std(mean, std))


def usable_std(mean: np.ndarray | float, std: np.ndarray | float) -> np.ndarray:
    """`std`, but 1 where the values differ by no more than the rounding of their mean: nothing to scale."""
    return np.where(std > 1e-6 * np.abs(mean), std, 1.0)


# ------------------------------------------------------------------------------------ calibration


def best_temperature(negative_log_likelihood: Callable[[float], float]) -> float:
    """The temperature T that fits best: argmin over T of NLL(T) + (ln T)² / 2, in [e⁻³, e³].

    `negative_log_likelihood` is that of validation truths, summed over rows, for outputs divided by T: Guo et
    al. 2017, "On calibration of modern neural networks". The second term is a standard normal prior of ln T:
    a few rows, all of them right, would else ask for T = 0.
    """

    def cost(log_t: float) -> float:
        return negative_log_likelihood(math.exp(log_t)) + log_t**2 / 2

    grid = np.linspace(-3, 3, 61)
    best = int(np.argmin([cost(log_t) for log_t in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, 60)]
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(30):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if cost(left) <= cost(right) else (left, high)
    return math.exp((low + high) / 2)
