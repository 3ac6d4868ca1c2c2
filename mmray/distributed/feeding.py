"""Index and feature tables as training reads them: whole in memory, or streamed by Ray Data if too large.

What fits is decided once, before training, from the footers: they say how many steps every part file has.
A streamed table is read partition by partition, a few ahead of the model; the read tasks ask for no CPU,
as they mostly wait for storage, so that no worker holds what its own reader waits for.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mmray.config import Config
from mmray.errors import MmrayError
from mmray.storage.filesystem import Storage
from mmray.tables.features import Data, require_data
from mmray.tables.joined import lengths, read_joined, read_rows
from mmray.tables.parts import read_notes, read_schema

if TYPE_CHECKING:
    from mmray.training.batches import FeatureSet
    from mmray.training.streaming import StreamedTable

__all__ = ["load_features", "open_table", "streaming_window"]

READ_AHEAD = 2
"""Partitions read while the model learns from those before."""
COPIES = 3
"""Of a window, that its putting together needs at most, with the partitions read ahead."""
WORD_BYTES = 80


def load_features(config: Config, storage: Storage, features: Sequence[str]) -> "FeatureSet":
    """Some features and all targets of all samples, in memory."""
    from mmray.training.batches import FeatureSet

    data = require_data(config, storage, features)
    if not features:
        parts = [data.index.small(storage, _labels(config))]
    else:
        parts = list(read_rows(storage, data, _labels(config)))
    return FeatureSet.load(parts, list(features), config.targets)


def streaming_window(config: Config, storage: Storage, budget_bytes: float) -> int | None:
    """How many partitions a worker shuffles together so that it stays in budget; None: all fit in memory."""
    data = require_data(config, storage)
    dims = _dims(storage, data)
    a_step = {name: WORD_BYTES if dim is None else 4 * dim for name, dim in dims.items()}
    if sum(data.steps(name) * size for name, size in a_step.items()) <= budget_bytes:
        return None
    of_parts = [0] * len(data.index.partitions)
    for name, table in data.tables.items():
        for at, notes in enumerate(read_notes(storage, table.folder, data.index.partitions.tolist())):
            of_parts[at] += notes["steps"] * a_step[name]
    return max(1, int(budget_bytes / COPIES / max(of_parts)))


def open_table(
    config: Config, storage: Storage, features: Sequence[str], window: int | None
) -> "FeatureSet | StreamedTable":
    """The samples with these features: in memory, or streamed with this window."""
    if window is None:
        return load_features(config, storage, features)
    from mmray.training.batches import FeatureSet
    from mmray.training.streaming import StreamedTable

    data = require_data(config, storage, features)

    def read(parts: Sequence[int]) -> Iterator[FeatureSet]:
        for block in _stream(storage, data, parts, _labels(config)):
            yield FeatureSet.load(block, list(features), config.targets)

    return StreamedTable(
        index=FeatureSet.load(data.index.small(storage, _labels(config)), [], config.targets),
        lengths=lengths(storage, data),
        dims=_dims(storage, data),
        sizes=data.index.sizes,
        window=window,
        read=read,
    )


def _labels(config: Config) -> list[str]:
    return ["sample_id", "split", "group", *config.targets]


def _dims(storage: Storage, data: Data) -> dict[str, int | None]:
    """{feature: numbers a step, or None for words}."""
    kinds = {
        name: read_schema(storage, table.folder).field(name).type.value_type
        for name, table in data.tables.items()
    }
    return {
        name: kind.list_size if pa.types.is_fixed_size_list(kind) else None for name, kind in kinds.items()
    }


def _stream(storage: Storage, data: Data, parts: Sequence[int], labels: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of each of these partitions (by place in the index), in this order, read ahead by Ray Data."""
    import ray.data

    from mmray.distributed.pools import fault_in, quiet_data

    if not parts:
        return
    context = quiet_data()
    context.execution_options.preserve_order = True
    dataset = ray.data.from_blocks([pa.table({"at": [part]}) for part in parts])
    dataset = dataset.map_batches(
        partial(_read, storage=storage, data=data, labels=labels),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=0,
        compute=ray.data.TaskPoolStrategy(size=READ_AHEAD),
    )
    blocks: Any = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    for block in blocks:
        if fault := fault_in(block):
            raise fault
        yield block


def _read(block: pa.Table, storage: Storage, data: Data, labels: Sequence[str]) -> pa.Table:
    from mmray.distributed.pools import with_fault

    (at,) = block["at"].to_pylist()
    try:
        return read_joined(storage, data, at, labels)
    except MmrayError as fault:
        return with_fault(fault)
