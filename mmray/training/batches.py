"""Feature tables → rows in memory → padded batches, in an order every worker agrees on.

    pa.Table …  →  FeatureSet (as stored: words, labels)  →  Examples (numbers)  →  Batch (tensors, padded)

Features stay ragged (all steps of all rows end to end, and offsets) until a batch is cut: memory is what
the steps need, whatever the longest row. Each step has its time, one number beside its D
(`mmray.training.times`). The order of an epoch is a function of (seed, epoch) alone; a
worker takes its slice of each global batch, so the workers make the same steps for any number of rows,
and the same gradient as one worker would.

Shapes: N rows, B rows of a batch, T steps, D numbers a step.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from mmray.errors import TableError
from mmray.tables.schemas import ragged_from_column
from mmray.targets import Target
from mmray.training.times import spread, step_numbers, stored_times

__all__ = ["Batch", "Examples", "FeatureSet", "Ragged", "epoch_batches"]


@dataclass(frozen=True)
class Ragged:
    """N rows of T steps each: `values` [sum of T, D] or [sum of T], `offsets` [N + 1] int64.

    `times_s` [sum of T] float32: seconds from the start of the sample; None: step i of a row is at i.
    """

    values: np.ndarray
    offsets: np.ndarray
    times_s: np.ndarray | None = None

    @cached_property
    def lengths(self) -> np.ndarray:
        """Steps of each row, [N] int64."""
        return np.diff(self.offsets)

    @property
    def dim(self) -> int | None:
        """D, or None for words."""
        return self.values.shape[1] if self.values.ndim == 2 else None

    @classmethod
    def concatenate(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """The rows of all parts, in order."""
        lengths = np.concatenate([part.lengths for part in parts])
        times = np.concatenate([part.times() for part in parts])
        return cls(np.concatenate([part.values for part in parts]), _offsets(lengths), times)

    def times(self) -> np.ndarray:
        """Time of every step, [sum of T] float32."""
        if self.times_s is not None:
            return self.times_s
        return step_numbers(self.lengths).astype(np.float32)

    def take(self, rows: np.ndarray) -> "Ragged":
        """The rows at these indices, in this order."""
        positions = self._positions(rows)
        times = None if self.times_s is None else self.times_s[positions]
        return Ragged(self.values[positions], _offsets(self.lengths[rows]), times)

    def padded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows → ([B, T, D] or [B, T] with zeros at padding, lengths [B]); T is at least 1."""
        lengths = self.lengths[rows]
        steps = max(int(lengths.max(initial=0)), 1)
        if (lengths == steps).all():
            return self.values[self._positions(rows)].reshape(
                len(rows), steps, *self.values.shape[1:]
            ), lengths
        padded = np.zeros((len(rows), steps, *self.values.shape[1:]), dtype=self.values.dtype)
        padded[np.arange(steps) < lengths[:, None]] = self.values[self._positions(rows)]
        return padded, lengths

    def padded_times(self, rows: np.ndarray) -> np.ndarray:
        """Rows → times [B, T] float32 of the steps that `padded` gives, 0 at padding."""
        lengths = self.lengths[rows]
        mask = np.arange(max(int(lengths.max(initial=0)), 1)) < lengths[:, None]
        padded = np.zeros(mask.shape, np.float32)
        padded[mask] = step_numbers(lengths) if self.times_s is None else self.times_s[self._positions(rows)]
        return padded

    def _positions(self, rows: np.ndarray) -> np.ndarray:
        """Where in `values` the steps of these rows are, end to end."""
        lengths = self.lengths[rows]
        starts = np.repeat(self.offsets[:-1][rows] - _offsets(lengths)[:-1], lengths)
        return starts + np.arange(len(starts))


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@dataclass(frozen=True)
class FeatureSet:
    """Rows of a feature table in memory, as stored.

    `features`: float32 vectors or words. `targets`: labels or lists of labels (object, None: unknown) or
    float64 (NaN: unknown).
    """

    sample_ids: np.ndarray
    split: np.ndarray
    features: dict[str, Ragged]
    targets: dict[str, np.ndarray]
    group: np.ndarray | None = None
    """Number of the group of each sample, [N] int64; samples without one have -1. None: not looked at."""

    def __len__(self) -> int:
        return len(self.sample_ids)

    @classmethod
    def load(
        cls, tables: pa.Table | Sequence[pa.Table], features: Sequence[str], targets: Mapping[str, Target]
    ) -> "FeatureSet":
        """Read some features and targets of one or several feature tables, rows in order.

        Raises:
            TableError: naming the column that is missing, or is not what a feature or the target is.

        """
        parts: list[pa.Table] = [tables] if isinstance(tables, pa.Table) else list(tables)
        if not parts:
            raise TableError("no feature table to read")
        for part in parts:
            _require(part, ["sample_id", "split", *features, *targets])
        values = {name: _feature(name, [part.column(name) for part in parts]) for name in features}
        lengths = {name: feature.lengths for name, feature in values.items()}
        times = spread(lengths, {name: stored_times(name, parts, lengths[name]) for name in features})
        return cls(
            sample_ids=_ids([part.column("sample_id") for part in parts]),
            split=np.concatenate([_objects(part.column("split")) for part in parts]),
            features={
                name: Ragged(feature.values, feature.offsets, times[name]) for name, feature in values.items()
            },
            targets={
                name: np.concatenate([target.read(name, part.column(name)) for part in parts])
                for name, target in targets.items()
            },
            group=_numbered([part.column("group") for part in parts])
            if all("group" in part.column_names for part in parts)
            else None,
        )

    def without_test(self) -> "FeatureSet":
        """The same rows, those of the test split in no split."""
        split = self.split.copy()
        split[split == "test"] = None
        return replace(self, split=split)

    @property
    def seen(self) -> np.ndarray:
        """[N] bool: the rows that have a feature; the others are neither predicted nor judged."""
        there = [feature.lengths > 0 for feature in self.features.values()]
        return np.any(there, axis=0)

    @property
    def labelled(self) -> np.ndarray:
        """[N] bool: the rows of which a target is known."""
        return np.any([~pd.isna(values) for values in self.targets.values()], axis=0)

    def subset(self, rows: np.ndarray) -> "FeatureSet":
        """The rows at these indices, or where a [N] bool mask is True."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return FeatureSet(
            self.sample_ids[rows],
            self.split[rows],
            {name: feature.take(rows) for name, feature in self.features.items()},
            {name: values[rows] for name, values in self.targets.items()},
            None if self.group is None else self.group[rows],
        )


def _require(table: pa.Table, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise TableError(
            f"the feature table has no column {', '.join(missing)}; it has {', '.join(table.column_names)}"
        )


def _objects(column: pa.ChunkedArray) -> np.ndarray:
    """[N] object: texts, or None; equal ones are one Python object, so that labels take 8 bytes a row."""
    coded = column.combine_chunks().dictionary_encode()
    values = np.array([*coded.dictionary.to_pylist(), None], dtype=object)
    return values[coded.indices.fill_null(len(values) - 1).to_numpy(zero_copy_only=False)]


def _ids(columns: Sequence[pa.ChunkedArray]) -> np.ndarray:
    """[N] object: texts of which no two are equal."""
    ids = np.empty(sum(map(len, columns)), dtype=object)
    start = 0
    for chunk in (chunk for column in columns for chunk in column.chunks):
        ids[start : start + len(chunk)] = chunk.to_numpy(zero_copy_only=False)
        start += len(chunk)
    return ids


def _numbered(columns: Sequence[pa.ChunkedArray]) -> np.ndarray:
    """[N] int64: equal texts have the same number; -1 where there is none."""
    hashes, known = [np.zeros(0, np.uint64)], [np.zeros(0, bool)]
    for chunk in (chunk for column in columns for chunk in column.chunks if len(chunk)):
        texts = chunk.fill_null("").to_numpy(zero_copy_only=False)
        hashes.append(pd.util.hash_array(texts, categorize=False))  # pyright: ignore[reportAttributeAccessIssue]
        known.append(chunk.is_valid().to_numpy(zero_copy_only=False))
    _, numbers = np.unique(np.concatenate(hashes), return_inverse=True)
    return np.where(np.concatenate(known), numbers, -1)


def _feature(name: str, columns: Sequence[pa.ChunkedArray]) -> Ragged:
    types = list(dict.fromkeys(column.type for column in columns))
    if not all(pa.types.is_list(kind) for kind in types):
        raise TableError(f"column {name} is not a feature: its type is {types[0]}")
    parts = [Ragged(*ragged_from_column(column)) for column in columns]
    if len({part.dim for part in parts}) > 1:
        raise TableError(f"feature {name} has several types: {', '.join(map(str, types))}")
    return Ragged.concatenate(parts)


@dataclass(frozen=True)
class Batch:
    """Rows as tensors, padded to the longest of each feature.

    `inputs` {feature: [B, T, D] float32 or [B, T] int64}, `lengths` {feature: [B] int64}, `times`
    {feature: [B, T] float32 seconds}, `targets`
    {target: [B] int64 (-1 unknown), float64 (NaN unknown), or [B, C] float32 (NaN unknown)}.
    """

    inputs: dict[str, Tensor]
    lengths: dict[str, Tensor]
    times: dict[str, Tensor]
    targets: dict[str, Tensor]

    def to(self, device: str | torch.device) -> "Batch":
        """The same on `device`."""
        return Batch(*({k: v.to(device) for k, v in part.items()} for part in vars(self).values()))


@dataclass(frozen=True)
class Examples:
    """Rows as numbers: `features` ragged float32 or int64, `targets` encoded as in `Batch`."""

    features: dict[str, Ragged]
    targets: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.features.values())).lengths)

    @classmethod
    def concatenate(cls, parts: Sequence["Examples"]) -> "Examples":
        """The rows of all parts, in order."""
        first = parts[0]
        return cls(
            {name: Ragged.concatenate([part.features[name] for part in parts]) for name in first.features},
            {name: np.concatenate([part.targets[name] for part in parts]) for name in first.targets},
        )

    def take(self, rows: np.ndarray) -> "Examples":
        """The rows at these indices, in this order."""
        return Examples(
            {name: feature.take(rows) for name, feature in self.features.items()},
            {name: values[rows] for name, values in self.targets.items()},
        )

    def present(self) -> np.ndarray:
        """[N, M] bool: the features each row has, in the order of `features`."""
        return np.stack([feature.lengths > 0 for feature in self.features.values()], axis=1)

    def batch(self, rows: np.ndarray) -> Batch:
        """The rows at these indices; for none, one row without features and targets.

        A worker whose slice of a batch is empty still makes the step, with a gradient of zero.
        """
        if not len(rows):
            return self._nothing()
        inputs, lengths = {}, {}
        for name, feature in self.features.items():
            padded, steps = feature.padded(rows)
            inputs[name], lengths[name] = torch.from_numpy(padded), torch.from_numpy(steps)
        times = {name: torch.from_numpy(x.padded_times(rows)) for name, x in self.features.items()}
        targets = {name: torch.from_numpy(values[rows]) for name, values in self.targets.items()}
        return Batch(inputs, lengths, times, targets)

    def _nothing(self) -> Batch:
        shapes = {name: (1, 1, *x.values.shape[1:]) for name, x in self.features.items()}
        return Batch(
            inputs={
                name: torch.from_numpy(np.zeros(shapes[name], x.values.dtype))
                for name, x in self.features.items()
            },
            lengths={name: torch.zeros(1, dtype=torch.int64) for name in self.features},
            times={name: torch.zeros(1, 1) for name in self.features},
            targets={
                name: torch.from_numpy(
                    np.full((1, *y.shape[1:]), -1 if y.dtype == np.int64 else np.nan, y.dtype)
                )
                for name, y in self.targets.items()
            },
        )


def epoch_batches(
    n_rows: int, batch_size: int, epoch: int, seed: int, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each step's (rows of the whole batch, the part of them that is this rank's), indices below `n_rows`.

    Every row once an epoch, in an order that depends on (seed, epoch) only. All ranks make the same number
    of steps; on a short last batch a rank's part may be empty.
    """
    order = np.random.default_rng([seed, epoch]).permutation(n_rows)
    for start in range(0, n_rows, batch_size):
        rows = order[start : start + batch_size]
        yield rows, np.array_split(rows, world_size)[rank]
