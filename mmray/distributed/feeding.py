"""The feature table as training reads it: whole in memory, or streamed by Ray Data where it is too large.

What fits is decided once, before training, from the small columns: they say how many steps every row has.
A streamed table is read partition by partition, a few ahead of the model; the read tasks ask for no CPU,
as they mostly wait for storage, so that no worker holds what its own reader waits for.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mmray.config import Config
from mmray.errors import MmrayError
from mmray.stages.extract import features_folder
from mmray.storage.filesystem import Storage
from mmray.tables.parts import done_partitions, read_partition, read_schema, read_table
from mmray.tables.schemas import columns_of

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
    """Some features and all targets of the table, in memory."""
    from mmray.training.batches import FeatureSet

    folder = features_folder(config)
    parts = list(read_table(storage, folder, _columns(config, storage, features)))
    return FeatureSet.load(parts, list(features), config.targets)


def streaming_window(config: Config, storage: Storage, budget_bytes: float) -> int | None:
    """How many partitions a worker shuffles together so that it stays in budget; None: all fit in memory."""
    folder = features_folder(config)
    dims = _dims(storage, folder, list(config.features))
    of_parts = [
        sum(
            int(np.sum(part[f"{name}_length"])) * (WORD_BYTES if dim is None else 4 * dim)
            for name, dim in dims.items()
        )
        for part in read_table(storage, folder, [f"{name}_length" for name in dims])
    ]
    if sum(of_parts) <= budget_bytes:
        return None
    return max(1, int(budget_bytes / COPIES / max(of_parts)))


def open_table(
    config: Config, storage: Storage, features: Sequence[str], window: int | None
) -> "FeatureSet | StreamedTable":
    """The table with these features: in memory, or streamed with this window."""
    if window is None:
        return load_features(config, storage, features)
    from mmray.training.batches import FeatureSet
    from mmray.training.streaming import StreamedTable

    folder = features_folder(config)
    partitions = done_partitions(storage, folder)
    columns = ["sample_id", "split", *config.targets, *(f"{name}_length" for name in features)]
    small = list(read_table(storage, folder, columns))
    wanted = _columns(config, storage, features)

    def read(parts: Sequence[int]) -> Iterator[FeatureSet]:
        for block in _stream(storage, folder, [partitions[part] for part in parts], wanted):
            yield FeatureSet.load(block, list(features), config.targets)

    return StreamedTable(
        index=FeatureSet.load(small, [], config.targets),
        lengths={
            name: np.concatenate([part[f"{name}_length"].to_numpy() for part in small]).astype(np.int64)
            for name in features
        },
        dims=_dims(storage, folder, features),
        sizes=np.array([part.num_rows for part in small]),
        window=window,
        read=read,
    )


def _columns(config: Config, storage: Storage, features: Sequence[str]) -> list[str]:
    """What training reads of the table."""
    folder = features_folder(config)
    schema = read_schema(storage, folder)
    return ["sample_id", "split", *config.targets, *columns_of(features, schema)]


def _dims(storage: Storage, folder: str, features: Sequence[str]) -> dict[str, int | None]:
    """{feature: numbers a step, or None for words}."""
    schema = read_schema(storage, folder)
    kinds = {name: schema.field(name).type.value_type for name in features}
    return {
        name: kind.list_size if pa.types.is_fixed_size_list(kind) else None for name, kind in kinds.items()
    }


def _stream(
    storage: Storage, folder: str, partitions: Sequence[int], columns: Sequence[str]
) -> Iterator[pa.Table]:
    """Each partition's rows, in this order, read ahead by Ray Data."""
    import ray.data

    from mmray.distributed.pools import fault_in, quiet_data

    if not partitions:
        return
    context = quiet_data()
    context.execution_options.preserve_order = True
    dataset = ray.data.from_blocks([pa.table({"partition": [partition]}) for partition in partitions])
    dataset = dataset.map_batches(
        partial(_read, storage=storage, folder=folder, columns=columns),
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


def _read(block: pa.Table, storage: Storage, folder: str, columns: Sequence[str]) -> pa.Table:
    from mmray.distributed.pools import with_fault

    (partition,) = block["partition"].to_pylist()
    try:
        return read_partition(storage, folder, partition, columns)
    except MmrayError as fault:
        return with_fault(fault)
