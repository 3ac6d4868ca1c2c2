"""The words of a feature ⇄ the integers a model embeds; fitted on the train split, stored with the model."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mmray.fusion.model import UNKNOWN

__all__ = ["Vocabulary"]


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
