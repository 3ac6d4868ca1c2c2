"""Rows for training and evaluation, from memory or part by part from storage, in the same terms.

    Feed.steps(rows, …)   →  each step's (rows of the whole batch, this rank's rows, a way to cut batches)
    Feed.pieces(rows, …)  →  (which of the rows, Examples, where in them): every row once over all ranks

A table in memory shuffles all its rows. One that streams is read in windows: the parts (files) in an order
of their own every epoch, the rows of `window` parts at a time shuffled together and batches cut across
the windows' borders: as many steps as in memory, and the same order where one window holds all parts. A
part is read by one rank an epoch, which makes the rows of it that are in a batch its share of it. Shares
differ in size, steps and gradients do not: losses are divided by counts of the whole batch.

Memory of a streaming worker: about twice a window, and the parts read ahead. What is small (split, targets,
lengths) is in memory for every row in both cases.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from mmray.training.batches import Batch, Examples, FeatureSet, Ragged, epoch_batches
from mmray.training.ranks import Worker
from mmray.training.spec import ModelSpec
from mmray.training.statistics import Summary, combined, summarise

__all__ = ["Feed", "InMemory", "StreamedTable", "Streaming", "epoch_windows", "open_feed", "summaries"]

Cut = Callable[[np.ndarray], Batch]
"""Rows of the table → a batch of them."""


@dataclass(frozen=True)
class StreamedTable:
    """A feature table of which only the small columns are in memory.

    `index` has no features; `lengths` {feature: [N] int64}, `dims` {feature: D or None for words}, `sizes`
    [P] rows of each part, in the order of the rows. `read` gives the rows of parts, part by part, in the
    order asked for.
    """

    index: FeatureSet
    lengths: dict[str, np.ndarray]
    dims: dict[str, int | None]
    sizes: np.ndarray
    window: int
    read: Callable[[Sequence[int]], Iterable[FeatureSet]]

    @property
    def starts(self) -> np.ndarray:
        """Row at which each part starts, and the number of rows, [P + 1]."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    def parts_of(self, rows: np.ndarray) -> np.ndarray:
        """The part of each row."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def nothing(self) -> FeatureSet:
        """No rows of the table, with their features."""
        offsets = np.zeros(1, dtype=np.int64)
        empty = {
            name: np.zeros(0, dtype=object) if dim is None else np.zeros((0, dim), dtype=np.float32)
            for name, dim in self.dims.items()
        }
        features = {name: Ragged(values, offsets) for name, values in empty.items()}
        return replace(self.index.subset(np.zeros(0, dtype=np.int64)), features=features)

    def pick(self, wanted: Mapping[int, np.ndarray]) -> Iterator[tuple[np.ndarray, FeatureSet]]:
        """For each {part: rows of it}, in this order: the rows and what they hold."""
        for (part, rows), data in zip(wanted.items(), self.read(list(wanted)), strict=True):
            if len(data) != self.sizes[part]:
                raise RuntimeError(f"part {part} has {self.sizes[part]} rows, {len(data)} came")
            yield rows, data.subset(rows - self.starts[part])


def summaries(
    data: FeatureSet | StreamedTable,
    features: Sequence[str],
    rows: np.ndarray,
    worker: Worker,
    reduced: Collection[str] = (),
) -> dict[str, Summary]:
    """What these rows hold of each feature; of a streamed table each rank looks at its share of the parts."""
    if isinstance(data, FeatureSet):
        return summarise({name: data.features[name] for name in features}, rows, reduced)
    own = _by_part(data, rows, worker)
    found = zip(own, data.pick(own), strict=True)
    mine = {part: summarise(x.features, np.arange(len(x)), reduced) for part, (_, x) in found}
    everyone = {part: summary for share in worker.gather(mine) for part, summary in share.items()}
    return combined([everyone[part] for part in sorted(everyone)], features)


def _by_part(table: StreamedTable, rows: np.ndarray, worker: Worker) -> dict[int, np.ndarray]:
    """{part: rows of it} of every world_size-th part that has any of these rows."""
    part_of = table.parts_of(rows)
    return {int(part): rows[part_of == part] for part in np.unique(part_of)[worker.rank :: worker.world_size]}


class Feed(Protocol):
    """Where the rows of training and evaluation come from."""

    targets: dict[str, np.ndarray]
    """Encoded as in `Batch`, of every row."""
    present: np.ndarray
    """[N, M] bool: the features each row has."""

    def steps(
        self, rows: np.ndarray, batch_size: int, epoch: int, seed: int, worker: Worker
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Cut]]:
        """An epoch over `rows` in an order that depends on (seed, epoch) only; as many steps on all ranks."""
        ...

    def pieces(self, rows: np.ndarray, worker: Worker) -> Iterator[tuple[np.ndarray, Examples, np.ndarray]]:
        """This rank's share of `rows`: positions in `rows`, and Examples with the rows of them to take."""
        ...


def open_feed(spec: ModelSpec, data: FeatureSet | StreamedTable) -> "InMemory | Streaming":
    """The rows of `data` as the model reads them."""
    return InMemory(spec, data) if isinstance(data, FeatureSet) else Streaming(spec, data)


class InMemory:
    """All rows in memory."""

    def __init__(self, spec: ModelSpec, data: FeatureSet):
        self.examples = spec.examples(data)
        self.targets = self.examples.targets
        self.present = self.examples.present()

    def steps(
        self, rows: np.ndarray, batch_size: int, epoch: int, seed: int, worker: Worker
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Cut]]:
        """Equal shares of each batch."""
        for everyone, own in epoch_batches(
            len(rows), batch_size, epoch, seed, worker.rank, worker.world_size
        ):
            yield rows[everyone], rows[own], self.examples.batch

    def pieces(self, rows: np.ndarray, worker: Worker) -> Iterator[tuple[np.ndarray, Examples, np.ndarray]]:
        """Every world_size-th row."""
        own = np.arange(worker.rank, len(rows), worker.world_size)
        yield own, self.examples, rows[own]


def epoch_windows(
    parts: np.ndarray, window: int, epoch: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """[N] part of each row → windows of (parts, positions below N in the order of the epoch).

    Every position once, in an order that depends on (seed, epoch) only; that of `epoch_batches` where one
    window holds all parts.
    """
    shuffle_parts = np.random.default_rng([seed, epoch, 1])
    shuffle_rows = np.random.default_rng([seed, epoch])
    order = shuffle_parts.permutation(np.unique(parts))
    windows = []
    for start in range(0, len(order), window):
        chosen = np.sort(order[start : start + window])
        positions = np.flatnonzero(np.isin(parts, chosen))
        windows.append((chosen, positions[shuffle_rows.permutation(len(positions))]))
    return windows


class Streaming:
    """Rows read part by part."""

    def __init__(self, spec: ModelSpec, table: StreamedTable):
        self.spec = spec
        self.table = table
        self.targets = spec.encoded(table.index)
        self.present = np.stack([table.lengths[name] > 0 for name in spec.shapes], axis=1)

    def steps(
        self, rows: np.ndarray, batch_size: int, epoch: int, seed: int, worker: Worker
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Cut]]:
        """This rank's share of a batch: its rows in every world_size-th part of a window."""
        part_of = self.table.parts_of(rows)
        windows = epoch_windows(part_of, self.table.window, epoch, seed)
        owned = [parts[worker.rank :: worker.world_size] for parts, _ in windows]
        own_row = np.isin(part_of, np.concatenate(owned))
        order = np.concatenate([positions for _, positions in windows])
        ends = np.cumsum([len(positions) for _, positions in windows])
        wanted = {int(part): rows[part_of == part] for parts in owned for part in parts}
        parts = self.table.pick(wanted)

        held, read = self._examples(np.zeros(0, dtype=np.int64), self.table.nothing()), 0
        for start in range(0, len(order), batch_size):
            everyone = order[start : start + batch_size]
            while read < len(windows) and (read == 0 or ends[read - 1] < start + len(everyone)):
                left = order[start : ends[read - 1]] if read else order[:0]
                held = held.keep(rows[left[own_row[left]]])
                held = held.add([self._examples(*next(parts)) for _ in owned[read]])
                read += 1
            yield rows[everyone], rows[everyone[own_row[everyone]]], held.batch

    def pieces(self, rows: np.ndarray, worker: Worker) -> Iterator[tuple[np.ndarray, Examples, np.ndarray]]:
        """Every world_size-th part, as it comes."""
        for own, data in self.table.pick(_by_part(self.table, rows, worker)):
            yield np.searchsorted(rows, own), self.spec.examples(data), np.arange(len(own))

    def _examples(self, rows: np.ndarray, data: FeatureSet) -> "_Held":
        return _Held(rows, self.spec.examples(data))


@dataclass(frozen=True)
class _Held:
    """Rows that are in memory at the moment, by their number in the table."""

    rows: np.ndarray
    examples: Examples

    def keep(self, rows: np.ndarray) -> "_Held":
        """These only."""
        return _Held(rows, self.examples.take(self._at(rows)))

    def add(self, others: Sequence["_Held"]) -> "_Held":
        """These and the rows of others."""
        all_of_them = [self, *others]
        return _Held(
            np.concatenate([held.rows for held in all_of_them]),
            Examples.concatenate([held.examples for held in all_of_them]),
        )

    def batch(self, rows: np.ndarray) -> Batch:
        """A batch of these rows of the table."""
        return self.examples.batch(self._at(rows))

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.rows)

    def _at(self, rows: np.ndarray) -> np.ndarray:
        return self._order[np.searchsorted(self.rows, rows, sorter=self._order)]
