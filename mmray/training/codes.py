"""Words, labels and numbers of a table ⇄ the integers and floats a model works with.

What they hold is fitted on the train split alone (`fitting`) and stored with the model.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import pandas as pd
import torch
from pydantic import TypeAdapter
from torch import Tensor

from mmray.config import ClassificationTarget, MultilabelTarget, OrdinalTarget, RegressionTarget, Target
from mmray.fusion.heads import Thresholds
from mmray.fusion.model import UNKNOWN

__all__ = [
    "SENTIMENT",
    "ClassCodes",
    "LabelCodes",
    "LevelCodes",
    "NumberCodes",
    "TargetCodes",
    "Vocabulary",
    "codes_from_json",
    "codes_to_json",
    "known",
    "usable_std",
]

SENTIMENT = 3
"""A sentiment score lies in [-3, 3]."""


@dataclass(frozen=True)
class Vocabulary:
    """Known words; index 0 is padding, 1 any unknown word, then `words` in order."""

    words: tuple[str, ...]

    @classmethod
    def build(
        cls, words: Iterable[str] | Mapping[str, int], max_size: int = 50_000, min_count: int = 1
    ) -> "Vocabulary":
        """The most frequent words first, ties in alphabetical order; no more than `max_size` of them.

        `words` are all words met, or how often each was.
        """
        counts = Counter(words)
        ranked = sorted((-count, word) for word, count in counts.items() if count >= min_count)
        return cls(tuple(word for _, word in ranked[:max_size]))

    def __len__(self) -> int:
        return len(self.words) + UNKNOWN + 1

    def indices(self, words: np.ndarray) -> np.ndarray:
        """Words [N] → indices [N] int64."""
        position = pd.Index(self.words, dtype=object).get_indexer(pd.Index(words, dtype=object))
        return np.asarray(position, dtype=np.int64) + UNKNOWN + 1  # absent is -1, so UNKNOWN


@dataclass(frozen=True)
class ClassCodes:
    """Class names ⇄ indices; -1 is an unknown truth."""

    target: ClassificationTarget
    """With its classes, and their weights where they have any."""

    @property
    def classes(self) -> list[str]:
        """Names in the order of the outputs."""
        return self.target.classes or []

    @property
    def width(self) -> int:
        """Outputs of the model for this target."""
        return len(self.classes)

    def encode(self, labels: np.ndarray) -> np.ndarray:
        """Labels [N] (None: unknown) → indices [N] int64; -1 for an unknown label or none of the classes."""
        return _indices(self.classes, labels)

    def prior(self, encoded: np.ndarray) -> np.ndarray:
        """Log share of each class among encoded truths, [C] float32; every class counted once more."""
        return np.log(_shares(encoded, self.width)).astype(np.float32)

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Logits [N, C] → probabilities [N, C]."""
        return torch.from_numpy(outputs).softmax(dim=1).numpy()

    def predicted(self, outputs: np.ndarray) -> np.ndarray:
        """Logits [N, C] → class indices [N]."""
        return outputs.argmax(1)

    def for_table(self, outputs: np.ndarray) -> list[str]:
        """Logits [N, C] → class names."""
        return [self.classes[index] for index in self.predicted(outputs)]


@dataclass(frozen=True)
class LabelCodes:
    """Sets of class names ⇄ a row of 0 and 1, one a class; a row of NaN is an unknown truth."""

    target: MultilabelTarget
    """With its classes, and their weights where they have any."""

    @property
    def classes(self) -> list[str]:
        """Names in the order of the outputs."""
        return self.target.classes or []

    @property
    def width(self) -> int:
        """Outputs of the model for this target."""
        return len(self.classes)

    def encode(self, labels: np.ndarray) -> np.ndarray:
        """Lists of labels [N] (None: unknown) → [N, C] float32; a label that is no class is left out."""
        column = {name: index for index, name in enumerate(self.classes)}
        encoded = np.zeros((len(labels), self.width), dtype=np.float32)
        for row, names in enumerate(labels):
            encoded[row] = np.nan if names is None else 0
            encoded[row, [column[name] for name in names or () if name in column]] = 1
        return encoded

    def prior(self, encoded: np.ndarray) -> np.ndarray:
        """Log odds of each class among encoded truths, [C] float32; one row with it and one without more."""
        truth = encoded[known(encoded)]
        return np.log((truth.sum(0) + 1) / (len(truth) - truth.sum(0) + 1)).astype(np.float32)

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Logits [N, C] → probabilities [N, C], each class for itself."""
        return torch.from_numpy(outputs).sigmoid().numpy()

    def predicted(self, outputs: np.ndarray) -> np.ndarray:
        """Logits [N, C] → [N, C] int64, 1 where a class is predicted."""
        return (self.probabilities(outputs) >= self.target.threshold).astype(np.int64)

    def for_table(self, outputs: np.ndarray) -> list[list[str]]:
        """Logits [N, C] → the names of the classes predicted."""
        return [list(compress(self.classes, row)) for row in self.predicted(outputs)]


@dataclass(frozen=True)
class NumberCodes:
    """Numbers, as they are (NaN is unknown); the model's are standardised over the train split."""

    target: RegressionTarget
    mean: float
    std: float
    width = 1

    def encode(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers [N] float64: kept exact, for metrics that ask for the sign of a 0."""
        return numbers

    def standardised(self, numbers: Tensor) -> Tensor:
        """Numbers → in standard deviations from the mean, float32."""
        return ((numbers - self.mean) / self.std).float()

    def prior(self, encoded: np.ndarray) -> np.ndarray:
        """The mean, standardised, [1] float32."""
        return np.array([(encoded[known(encoded)].mean() - self.mean) / self.std], dtype=np.float32)

    def predicted(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs [N, 1] → numbers [N] float64 in the unit of the table."""
        return outputs[:, 0].astype(np.float64) * self.std + self.mean

    for_table = predicted


@dataclass(frozen=True)
class LevelCodes:
    """Ordered levels ⇄ 0 … L - 1; -1 (a class) or NaN (a score) is an unknown truth.

    With a scale the truth stays the score it is, for metrics and the table; the loss takes its level.
    """

    target: OrdinalTarget

    @property
    def levels(self) -> list[str]:
        """Names from the lowest to the highest."""
        return self.target.classes or [str(score) for score in range(-SENTIMENT, SENTIMENT + 1)]

    @property
    def width(self) -> Thresholds:
        """Outputs of the model for this target."""
        return Thresholds(len(self.levels) - 1)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Labels [N] → levels [N] int64; scores [N] float64 as they are."""
        return _indices(self.target.classes, values) if self.target.classes else values

    def level(self, encoded: Tensor) -> Tensor:
        """Encoded truths → levels int64; -1 unknown. A score goes to the nearest (half to even)."""
        if not encoded.is_floating_point():
            return encoded
        levels = encoded.nan_to_num().clamp(-SENTIMENT, SENTIMENT).round().long() + SENTIMENT
        return torch.where(encoded.isnan(), -1, levels)

    def prior(self, encoded: np.ndarray) -> np.ndarray:
        """Log odds of being above each threshold, [L - 1] float32; every level counted once more."""
        shares = _shares(self.level(torch.from_numpy(encoded)).numpy(), len(self.levels))
        below = shares.cumsum()[:-1]
        return np.log((1 - below) / below).astype(np.float32)

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Logits [N, L - 1] of being above each threshold → probabilities of the levels [N, L]."""
        above = torch.from_numpy(outputs).sigmoid().numpy()
        return -np.diff(above, axis=1, prepend=1.0, append=0.0)

    def predicted(self, outputs: np.ndarray) -> np.ndarray:
        """Logits [N, L - 1] → [N]: the level (thresholds more likely passed than not), or the expected score.

        The level is the median of the predicted distribution, the best guess for an absolute error.
        """
        if self.target.classes:
            return (outputs > 0).sum(1)
        return torch.from_numpy(outputs).double().sigmoid().sum(1).numpy() - SENTIMENT

    def for_table(self, outputs: np.ndarray) -> np.ndarray | list[str]:
        """Logits [N, L - 1] → level names, or expected scores."""
        predicted = self.predicted(outputs)
        return [self.levels[level] for level in predicted] if self.target.classes else predicted


TargetCodes = ClassCodes | LabelCodes | NumberCodes | LevelCodes


def known(encoded: np.ndarray) -> np.ndarray:
    """[N] bool: which of a target's encoded truths are known."""
    if encoded.dtype == np.int64:
        return encoded >= 0
    return ~np.isnan(encoded if encoded.ndim == 1 else encoded.sum(1))


def usable_std(mean: np.ndarray | float, std: np.ndarray | float) -> np.ndarray:
    """`std`, but 1 where the values differ by no more than the rounding of their mean: nothing to scale."""
    return np.where(std > 1e-6 * np.abs(mean), std, 1.0)


def _indices(names: Sequence[str], values: np.ndarray) -> np.ndarray:
    """Where each value stands among the names, [N] int64; -1: nowhere."""
    return pd.Index(names, dtype=object).get_indexer(pd.Index(values, dtype=object)).astype(np.int64)


def _shares(encoded: np.ndarray, size: int) -> np.ndarray:
    """Shares of 0 … size - 1 among encoded truths, each counted once more."""
    counts = np.bincount(encoded[known(encoded)], minlength=size) + 1
    return counts / counts.sum()


def codes_to_json(codes: TargetCodes) -> dict:
    """The target as a config would give it, and what was fitted, as plain JSON values."""
    scale = {"mean": codes.mean, "std": codes.std} if isinstance(codes, NumberCodes) else {}
    return {**codes.target.model_dump(mode="json"), **scale}


def codes_from_json(data: Mapping) -> TargetCodes:
    """What `codes_to_json` gave."""
    target: Target = TypeAdapter(Target).validate_python(
        {key: value for key, value in data.items() if key not in ("mean", "std")}
    )
    if isinstance(target, RegressionTarget):
        return NumberCodes(target, data["mean"], data["std"])
    if isinstance(target, OrdinalTarget):
        return LevelCodes(target)
    return LabelCodes(target) if isinstance(target, MultilabelTarget) else ClassCodes(target)
