"""Features made elsewhere in, feature tables out: the same tables that extract writes, on this machine.

    samples.manifest ──▶ ids, splits, targets ──▶ partitions ─┐
    features.*.path  ──▶ steps, by id ──▶ context ────────────┴▶ part-000042.parquet

Where the manifest is a file of arrays, its samples are written to `samples/_source.jsonl` first, and checked
as any manifest is. What was read is known by its content: train refuses a table whose source has changed.
"""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from mmray import console
from mmray.config import Config, ConfigLike, as_config
from mmray.errors import MediaError, TableError
from mmray.features.imported import ImportedFeature
from mmray.samples.arrays import read_arrays, table_folder
from mmray.samples.context import in_context
from mmray.samples.imported import Found, ImportedStep
from mmray.samples.index import Index
from mmray.samples.matching import Wanted, feature_of
from mmray.samples.of_arrays import names_of, project_index
from mmray.samples.trees import Arrays
from mmray.stages.extract import extraction_summary, finish
from mmray.storage.filesystem import Storage
from mmray.storage.lock import one_driver
from mmray.tables.accounting import Tally, notes_of
from mmray.tables.features import complete_tables, states, tables_to_make
from mmray.tables.identity import media_digest
from mmray.tables.parts import done_partitions, write_partition
from mmray.tables.schemas import FeatureShape, feature_schema, vectors_to_column

__all__ = ["import_features"]

Step = ImportedStep | MediaError


@one_driver
def import_features(config: ConfigLike) -> dict[str, Any]:
    """Bring the tables of the imported features to completion and return a summary, as `extract` does.

    Raises:
        SamplesError: where the samples are not whole, or an array is not there or has no feature's shape.
        TableError: where no feature is an imported one.
        BudgetError: where too large a share of the samples has no feature.
    """
    config = as_config(config)
    imported = {name: feature for name, feature in config.features.items() if feature.kind == "imported"}
    if not imported:
        raise TableError(f"features {', '.join(config.features)} are not imported; run `mmray extract`")
    storage, start = Storage(config.storage), time.perf_counter()
    sources: dict[str, Arrays] = {}
    index = project_index(config, storage, sources)
    config = config.model_copy(update={"features": imported})
    complete = complete_tables(config, storage, index)
    missing = [name for name in config.features if name not in complete]
    tables = {**complete, **tables_to_make(config, missing, "cpu", index.split_digest)}
    made, odd = _columns(config, storage, index, missing, sources)
    tally = Tally(list(config.features))
    there = {name: done_partitions(storage, table.folder) for name, table in complete.items()}
    streams = {name: states(storage, index, complete[name], there[name]) for name in complete}
    with console.progress("import", total=index.rows) as meter:
        for partition, size in zip(index.partitions.tolist(), index.sizes.tolist()):
            notes: dict[str, Any] = {name: next(stream).notes for name, stream in streams.items()}
            samples = index.read(storage, partition)
            for name, (shape, column) in made.items():
                rows = _rows(name, shape, samples, column)
                more = {**notes_of(rows, name), "media": media_digest(rows["sample_id"], [""] * size)}
                notes[name] = write_partition(storage, tables[name].folder, partition, rows, more)
                tally.features[name].rows_now += size
            tally.add_notes(partition, size, notes)
            meter.advance(size)
    tally.rows_now = index.rows if missing else 0
    tally.check_budget(config.extract.max_failed_fraction, index.rows)
    for table in tables.values():
        finish(storage, index, table, tally)
    summary = extraction_summary(config, index, tables, tally, time.perf_counter() - start)
    return {**summary, "notes": [*index.notes, *dict.fromkeys(odd)]}


def _columns(
    config: Config, storage: Storage, index: Index, missing: list[str], sources: dict[str, Arrays]
) -> tuple[dict[str, tuple[FeatureShape, Iterator[Step]]], list[str]]:
    """{missing feature: what it holds, and the feature of every sample}; and what is odd about them."""
    if not missing:
        return {}, []
    table = index.small(storage, ["sample_id", "split", "start_s", "end_s"])
    ids, splits = table["sample_id"].to_pylist(), table["split"].to_pylist()
    made, notes = {}, []
    for name in missing:
        feature = config.features[name]
        assert isinstance(feature, ImportedFeature), name
        found, odd = _of_samples(config, storage, name, feature, table, sources)
        notes += odd
        column = in_context(feature.context, ids, splits, found) if feature.context else iter(found)
        made[name] = (_shape(name, feature, found), column)
    return made, notes


def _of_samples(
    config: Config,
    storage: Storage,
    name: str,
    feature: ImportedFeature,
    table: pa.Table,
    sources: dict[str, Arrays],
) -> Found:
    """A feature of every sample of `table`, in their order, and what is odd about them."""
    path = table_folder(config.imported_from(feature), feature.array or name, storage)
    manifest = config.samples.manifest
    if path not in sources:
        sources[path] = read_arrays(path, storage, names_of(config))
    named = {column: table[column].to_pylist() for column in ("sample_id", "split", "start_s", "end_s")}
    own = sources.get(manifest) if isinstance(manifest, str) else None
    wanted = Wanted(
        named["sample_id"], named["split"], named["start_s"], named["end_s"], own, config.samples.columns
    )
    return feature_of(name, feature, sources[path], wanted)


def _shape(name: str, feature: ImportedFeature, found: list[Step]) -> FeatureShape:
    """Words, or vectors that all have the same length.

    Raises:
        TableError: where they do not, or no row has any.
    """
    present = [step.value for step in found if isinstance(step, ImportedStep)]
    dims = Counter(None if isinstance(value, list) else value.shape[1] for value in present)
    if not dims:
        reasons = Counter(step.reason for step in found if isinstance(step, MediaError))
        first = next((step.detail for step in found if isinstance(step, MediaError)), "")
        told = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        raise TableError(f"features.{name}: not one sample has this feature ({told}; the first: {first})")
    if len(dims) > 1:
        told = ", ".join(f"{count} of {dim or 'words'}" for dim, count in dims.most_common(3))
        raise TableError(f"features.{name}: vectors of different lengths: {told}")
    (dim,) = dims
    if dim is None and feature.context:
        raise TableError(f"features.{name}: context needs vectors, these are words")
    return FeatureShape(dim, feature.dtype)


def _rows(name: str, shape: FeatureShape, samples: pa.Table, column: Iterator[Step]) -> pa.Table:
    """The rows of a partition's samples in the table of a feature; takes as many steps off `column`."""
    found = [next(column) for _ in range(samples.num_rows)]
    errors = [
        {"stage": "import", "reason": step.reason, "detail": step.detail[:500], "attempts": 1}
        if isinstance(step, MediaError)
        else None
        for step in found
    ]
    there = [step if isinstance(step, ImportedStep) else None for step in found]
    values: list[Any] = [step and step.value for step in there]
    made: dict[str, Any] = {
        "sample_id": samples["sample_id"],
        "media_key": [""] * samples.num_rows,
        name: pa.array(values, shape.arrow_type) if shape.dim is None else vectors_to_column(values, shape),
        f"{name}_length": [0 if value is None else len(value) for value in values],
        f"{name}_start_s": [step and step.start_s for step in there],
        f"{name}_step_s": [step and step.step_s for step in there],
        "error": errors,
    }
    schema = feature_schema(name, shape)
    arrays = [
        pa.array(made[field.name], field.type) if isinstance(made[field.name], list) else made[field.name]
        for field in schema
    ]
    return pa.table(arrays, schema=schema)
