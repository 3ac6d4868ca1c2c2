"""The tables of a project as one: index, features and predictions joined on the id.

Each folder is plain Parquet for any other tool as well: `samples/*.parquet`, `features/NAME-…/*.parquet` and
`predictions/NAME/*.parquet` all have a column `sample_id`.
"""

from collections.abc import Sequence

import pyarrow as pa

from mmray.config import Config, as_config
from mmray.errors import TableError
from mmray.samples.index import Index, index_at, known_index
from mmray.storage.filesystem import Storage
from mmray.tables.features import Data, FeatureTable, complete_tables, places_of
from mmray.tables.joined import read_joined
from mmray.tables.parts import read_table
from mmray.tables.schemas import SOURCES, version_of

__all__ = ["complete_below", "read"]


def read(
    project: Config | str, features: Sequence[str] | None = None, predictions: str | None = None
) -> pa.Table:
    """A row a sample: the columns of the index, of its features, and of the predictions for it.

    A feature `m` has the columns `m` ([T, D] as lists, or words; null where there is none), `m_start_s`,
    `m_step_s`, `m_times_s` (of frames), `m_boxes` (where a crop follows a face), and `m_error`: why it is
    null. Predictions are those of the model named (a folder below `predictions`); where there is only one, it
    need not be named. The table is in memory: `.to_pandas()`, `polars.from_arrow(table)` and
    `duckdb.arrow(table)` take it further.

    Args:
        project: A config, or the folder that its `output` names, local or s3://.
        features: Some features only; default: all whose tables are complete. `[]` reads none.
        predictions: The model's name; `""` reads none.

    Raises:
        TableError: where nothing was extracted there, a feature has no complete table, or several that are
            complete (give the config then, which says which), or there are predictions of several models.
    """
    config = as_config(project) if isinstance(project, Config) else None
    storage = Storage(config.storage) if config else Storage()
    output = config.output.rstrip("/") if config else str(project).rstrip("/")
    index = known_index(config, storage) if config else index_at(storage, f"{output}/samples")
    if config:
        tables = complete_tables(config, storage, index, features)
    else:
        tables = complete_below(storage, f"{output}/features", index, features)
    if lacking := [name for name in features or () if name not in tables]:
        raise TableError(f"{output}/features: no complete table of {', '.join(lacking)}")
    data = Data.of(storage, index, {} if features is not None and not features else tables)
    inner = {version_of(source) for source in SOURCES}
    labels = [name for name in index.columns(storage) if name not in inner]
    parts = range(len(index.partitions))
    joined = pa.concat_tables(read_joined(storage, data, at, labels, errors=True) for at in parts)
    return _with_predictions(joined, storage, f"{output}/predictions", predictions)


def complete_below(
    storage: Storage, root: str, index: Index, features: Sequence[str] | None
) -> dict[str, FeatureTable]:
    """The complete tables in a folder, without a config that says what makes them."""
    found: dict[str, FeatureTable] = {}
    for folder in sorted(storage.names(root)):
        name = folder.rpartition("-")[0]
        if name.startswith("_") or not name or (features is not None and name not in features):
            continue
        summary = storage.read_json(f"{root}/{folder}/_summary.json")
        if summary is None or summary["media"] != index.media_digest(summary["source"]):
            continue
        if name in found:
            raise TableError(f"{root}: several complete tables of {name}; read them with the config")
        spec = storage.read_json(f"{root}/{folder}/_spec.json")
        found[name] = FeatureTable(name, summary["source"], spec, root, summary)
    return found


def _with_predictions(table: pa.Table, storage: Storage, folder: str, name: str | None) -> pa.Table:
    there = sorted(name for name in storage.names(folder) if not name.startswith("_"))
    if name == "" or (name is None and not there):
        return table
    if name is None and len(there) > 1:
        raise TableError(f"{folder}: predictions of several models, name one of {', '.join(there)}")
    name = name or there[0]
    if name not in there:
        raise TableError(f"{folder}: no predictions {name} here; there are: {', '.join(there) or 'none'}")
    made = pa.concat_tables(read_table(storage, f"{folder}/{name}"))
    places = places_of(table["sample_id"], made["sample_id"])
    rows = made.take(pa.array(places, mask=places < 0))
    for field in made.schema:
        if field.name not in table.column_names:
            renamed = field.with_name({"error": "prediction_error"}.get(field.name, field.name))
            table = table.append_column(renamed.with_nullable(True), rows[field.name])
    return table
