"""Words and scales of the train split's features, summed up a thousand rows at a time.

Scales: Chan, Golub & LeVeque 1983, "Algorithms for computing the
sample variance".
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmray.errors import ConfigError, TableError
from mmray.targets.base import usable_std
from mmray.training.batches import Ragged

__all__ = ["Moments", "Summary", "summarise"]

CHUNK_ROWS = 1024
"""Rows looked at as float64 at a time: a whole copy of a feature could exceed memory."""


@dataclass(frozen=True)
class Moments:
    """Of n steps: their mean and the sum of squared differences from it, [D] float64 each.

    `products` [D, D], where asked for: the sum of products of two numbers' differences.
    """

    n: int
    mean: np.ndarray
    squares: np.ndarray
    products: np.ndarray | None = None

    @classmethod
    def of(cls, x_ND: np.ndarray, *, products: bool = False) -> "Moments":
        """Of these steps."""
        x = x_ND.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            mean = x.sum(0) / max(len(x), 1)
            away = x - mean
            return cls(len(x), mean, (away**2).sum(0), away.T @ away if products else None)

    def __add__(self, other: "Moments") -> "Moments":
        n = max(self.n + other.n, 1)
        with np.errstate(invalid="ignore", over="ignore"):
            delta = other.mean - self.mean
            mean = self.mean + delta * (other.n / n)
            share = self.n * other.n / n
            squares = self.squares + other.squares + delta**2 * share
            products = None
            if self.products is not None and other.products is not None:
                products = self.products + other.products + np.outer(delta, delta) * share
        return Moments(self.n + other.n, mean, squares, products)

    def components(self, feature: str, reduce: float) -> int:
        """How many principal components `model.inputs.<feature>.reduce` asks for: so many, or by variance.

        Raises:
            ConfigError: where there are fewer numbers a step.

        """
        if reduce >= 1:
            if reduce > len(self.mean):
                told = f"{reduce} components of {len(self.mean)} numbers a step; take fewer, or leave it out"
                raise ConfigError("config", [(f"model.inputs.{feature}.reduce", told)])
            return int(reduce)
        values, _ = self._principal(feature)
        return int(np.searchsorted(values.cumsum() / values.sum(), reduce)) + 1

    def _principal(self, feature: str) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues [D], largest first, and eigenvectors [D, D] of the standardised steps' covariance."""
        assert self.products is not None, "asked for where a feature is reduced"
        std = self.scale(feature)[1].numpy().astype(np.float64)
        values, vectors = np.linalg.eigh(self.products / max(self.n, 1) / np.outer(std, std))
        signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(len(values))])
        return values[::-1].clip(min=0), (vectors * signs)[:, ::-1]

    def directions(self, feature: str, components: int) -> Tensor:
        """What `fusion.model.Standardize` projects on, [D, K] float32: principal components of variance 1.

        A component without variance is left at 0: it is rounding.
        """
        values, vectors = self._principal(feature)
        some = values[:components] > 1e-9 * max(values[0], 1e-300)
        scale = np.where(some, np.sqrt(np.where(some, values[:components], 1.0)), np.inf)
        return torch.from_numpy(vectors[:, :components] / scale).float()

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


def summarise(
    features: Mapping[str, Ragged], rows: np.ndarray, reduced: Collection[str] = ()
) -> dict[str, Summary]:
    """The summary of each feature over these rows; of those that are `reduced`, with products."""
    return {
        name: Counter(feature.take(rows).values)
        if feature.dim is None
        else _moments(feature, rows, products=name in reduced)
        for name, feature in features.items()
    }


def _moments(feature: Ragged, rows: np.ndarray, *, products: bool) -> Moments:
    starts = range(0, len(rows), CHUNK_ROWS)
    chunks = (feature.take(rows[start : start + CHUNK_ROWS]).values for start in starts)
    nothing = Moments.of(np.zeros((0, feature.dim or 0)), products=products)
    return sum((Moments.of(chunk, products=products) for chunk in chunks), nothing)
