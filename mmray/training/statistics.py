"""Words and scales of the train split's features, from all rows at once or part by part: the same numbers.

Each part is summed up by itself; sums of parts are put together in the order of the parts, so that who
looked at which part changes nothing. Scales: Chan, Golub & LeVeque 1983, "Algorithms for computing the
sample variance".
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmray.errors import TableError
from mmray.targets.base import usable_std
from mmray.training.batches import Ragged

__all__ = ["Moments", "Summary", "combined", "summarise"]

CHUNK_ROWS = 1024
"""Rows looked at as float64 at a time: a whole copy of a feature could exceed memory."""


@dataclass(frozen=True)
class Moments:
    """Of n steps: their mean and the sum of squared differences from it, [D] float64 each."""

    n: int
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, x_ND: np.ndarray) -> "Moments":
        """Of these steps."""
        x = x_ND.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            mean = x.sum(0) / max(len(x), 1)
            return cls(len(x), mean, ((x - mean) ** 2).sum(0))

    def __add__(self, other: "Moments") -> "Moments":
        n = max(self.n + other.n, 1)
        with np.errstate(invalid="ignore", over="ignore"):
            delta = other.mean - self.mean
            mean = self.mean + delta * (other.n / n)
            squares = self.squares + other.squares + delta**2 * (self.n * other.n / n)
        return Moments(self.n + other.n, mean, squares)

    def scale(self, feature: str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, [D] float32 each; 1 for a constant.

        Raises:
            TableError: where a value is not finite.

        """
        if not np.isfinite(self.mean).all():
            raise TableError(
                f"feature {feature} holds values that are not finite in the train split "
                "(float16 overflows at 65504: extract it as float32)"
            )
        std = usable_std(self.mean, np.sqrt(self.squares / max(self.n, 1)))
        return torch.from_numpy(self.mean).float(), torch.from_numpy(std).float()


Summary = Moments | Counter[str]
"""What the train split holds of a feature: moments of its vectors, or how often each word is there."""


def summarise(features: Mapping[str, Ragged], rows: np.ndarray) -> dict[str, Summary]:
    """The summary of each feature over these rows."""
    return {
        name: Counter(feature.take(rows).values) if feature.dim is None else _moments(feature, rows)
        for name, feature in features.items()
    }


def _moments(feature: Ragged, rows: np.ndarray) -> Moments:
    starts = range(0, len(rows), CHUNK_ROWS)
    chunks = (Moments.of(feature.take(rows[start : start + CHUNK_ROWS]).values) for start in starts)
    return sum(chunks, Moments(0, np.zeros(feature.dim or 0), np.zeros(feature.dim or 0)))


def combined(parts: Sequence[Mapping[str, Summary]], names: Iterable[str]) -> dict[str, Summary]:
    """The summaries of all parts as one, in their order."""
    result: dict[str, Summary] = {}
    for name in names:
        first, *others = [part[name] for part in parts]
        for other in others:
            first = first + other  # pyright: ignore[reportOperatorIssue]
        result[name] = first
    return result
