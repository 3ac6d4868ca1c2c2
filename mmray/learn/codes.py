"""Words, labels and numbers of a table ⇄ the integers and floats a model works with.

Everything here is fitted on the train split alone and stored with the model.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mmray.config import ClassificationTarget, RegressionTarget, Target
from mmray.errors import SamplesError
from mmray.fusion.model import UNKNOWN

__all__ = ["ClassCodes", "NumberCodes", "TargetCodes", "Vocabulary", "fit_codes", "known", "usable_std"]


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

    classes: tuple[str, ...]

    @property
    def width(self) -> int:
        """Outputs of the model for this target."""
        return len(self.classes)

    def encode(self, labels: np.ndarray) -> np.ndarray:
        """Labels [N] (None: unknown) → indices [N] int64; -1 for an unknown label or none of the classes."""
        return (
            pd.Index(self.classes, dtype=object).get_indexer(pd.Index(labels, dtype=object)).astype(np.int64)
        )

    def predicted(self, outputs: np.ndarray) -> np.ndarray:
        """Logits [N, C] → class indices [N]."""
        return outputs.argmax(1)

    def truth(self, encoded: np.ndarray) -> np.ndarray:
        """Encoded truths in the unit of `predicted`."""
        return encoded

    def prior(self, encoded: np.ndarray) -> np.ndarray:
        """Log share of each class among encoded truths, [C] float32; every class counted once more."""
        counts = np.bincount(encoded[known(encoded)], minlength=self.width) + 1
        return np.log(counts / counts.sum()).astype(np.float32)


@dataclass(frozen=True)
class NumberCodes:
    """Numbers ⇄ numbers with mean 0 and standard deviation 1 over the train split; NaN is unknown."""

    mean: float
    std: float
    width = 1

    def encode(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers [N] float64 → standardised [N] float32."""
        return ((numbers - self.mean) / self.std).astype(np.float32)

    def predicted(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs [N, 1] → numbers [N] float64 in the unit of the table."""
        return self.truth(outputs[:, 0])

    def truth(self, encoded: np.ndarray) -> np.ndarray:
        """Encoded truths in the unit of `predicted`."""
        return encoded.astype(np.float64) * self.std + self.mean

    def prior(self, encoded: np.ndarray) -> np.ndarray:
        """The mean, standardised, [1] float32."""
        return np.array([encoded[known(encoded)].mean()], dtype=np.float32)


TargetCodes = ClassCodes | NumberCodes


def known(encoded: np.ndarray) -> np.ndarray:
    """[N] bool: which of a target's encoded truths are known."""
    return encoded >= 0 if encoded.dtype == np.int64 else ~np.isnan(encoded)


def usable_std(mean: np.ndarray | float, std: np.ndarray | float) -> np.ndarray:
    """`std`, but 1 where the values differ by no more than the rounding of their mean: nothing to scale."""
    return np.where(std > 1e-6 * np.abs(mean), std, 1.0)


def fit_codes(
    name: str, target: Target, values: np.ndarray, ids: np.ndarray, train: np.ndarray
) -> TargetCodes:
    """Codes of target `name` from its `values` [N] in the rows where `train` [N] bool.

    Raises:
        SamplesError: where the train split has no known value, or some row has a label that is not among
            the classes (`ids` name the samples).

    """
    if isinstance(target, RegressionTarget):
        numbers = values[train & ~np.isnan(values)]
        if not len(numbers):
            raise SamplesError(f"target {name}: no sample of the train split has a value")
        with np.errstate(over="ignore", invalid="ignore"):
            mean, std = numbers.mean(), numbers.std()
        if not np.isfinite(std):
            extreme = ids[train][np.nanargmax(np.abs(values[train]))]
            raise SamplesError(f"target {name}: the train split's values overflow; look at sample {extreme}")
        return NumberCodes(float(mean), float(usable_std(mean, std)))
    labels = sorted({label for label in values[train] if label is not None})
    if not labels:
        raise SamplesError(f"target {name}: no sample of the train split has a label")
    codes = ClassCodes(tuple(target.classes or labels))
    _refuse_unseen(name, target, codes, values, ids)
    return codes


def _refuse_unseen(
    name: str, target: ClassificationTarget, codes: ClassCodes, labels: np.ndarray, ids: np.ndarray
) -> None:
    unseen = [label is not None and label not in codes.classes for label in labels]
    if any(unseen):
        among = f"targets.{name}.classes" if target.classes else "the labels of the train split"
        raise SamplesError(
            f"target {name}: {', '.join(repr(label) for label in sorted(set(labels[unseen])))} not among "
            f"{among} ({', '.join(codes.classes)}); for example sample {', '.join(ids[unseen][:3])}"
        )
