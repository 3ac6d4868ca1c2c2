"""Index and feature tables as training reads them: in memory, or mapped from a local disk if too large.

What fits is decided once, before training, from the footers: they say how many steps every part file has.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mmray.config import Config
from mmray.storage.filesystem import Storage
from mmray.tables.features import Data, require_data
from mmray.tables.identity import hash_of
from mmray.tables.joined import read_rows
from mmray.tables.parts import read_schema

if TYPE_CHECKING:
    from mmray.training.batches import FeatureSet

__all__ = ["load_features", "open_table", "table_bytes"]

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


def table_bytes(config: Config, storage: Storage) -> int:
    """How large the features are in memory."""
    data = require_data(config, storage)
    return sum(data.steps(name) * size for name, size in _a_step(storage, data).items())


def open_table(config: Config, storage: Storage, features: Sequence[str], *, mapped: bool) -> "FeatureSet":
    """The samples with these features: in memory, or mapped from a disk of this machine."""
    if not mapped:
        return load_features(config, storage, features)
    from mmray.training.batches import FeatureSet
    from mmray.training.spilling import spilled

    data = require_data(config, storage, features)

    def read() -> Iterator[FeatureSet]:
        for part in read_rows(storage, data, _labels(config), at_once=1):
            yield FeatureSet.load(part, list(features), config.targets)

    index = FeatureSet.load(data.index.small(storage, _labels(config)), [], config.targets)
    size = sum(data.steps(name) * size for name, size in _a_step(storage, data).items())
    return spilled(hash_of([data.whole_digest, sorted(features)]), index, features, size, read)


def _labels(config: Config) -> list[str]:
    return ["sample_id", "split", "group", *config.targets]


def _a_step(storage: Storage, data: Data) -> dict[str, int]:
    """{feature: bytes of a step, with its time}."""
    import pyarrow as pa

    kinds = {
        name: read_schema(storage, table.folder).field(name).type.value_type
        for name, table in data.tables.items()
    }
    return {
        name: 4 + (4 * kind.list_size if pa.types.is_fixed_size_list(kind) else WORD_BYTES)
        for name, kind in kinds.items()
    }
