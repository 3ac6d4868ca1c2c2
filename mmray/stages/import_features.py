"""Features made elsewhere in, a feature table out: the same table that extract writes, on this machine.

    samples.manifest ──▶ ids, splits, targets ──▶ partitions ─┐
    features.*.path  ──▶ steps, by id ──▶ context ────────────┴▶ part-000042.parquet

Where the manifest is a file of arrays, its samples are written out as `samples.parquet` first, and checked
as any manifest is. What was read is known by its content: train refuses a table whose source has changed.
"""

import io
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmray import console
from mmray.config import Config, ConfigLike, as_config
from mmray.errors import MediaError, TableError
from mmray.features.imported import ImportedFeature
from mmray.samples.arrays import Columns, is_manifest, read_columns
from mmray.samples.imported import ImportedStep, in_context, sample_ids, samples, steps
from mmray.samples.index import SamplePlan, plan_samples
from mmray.stages.extract import features_folder
from mmray.storage.filesystem import Storage
from mmray.tables.accounting import Tally, notes_of
from mmray.tables.identity import feature_spec, hash_of, require_same
from mmray.tables.parts import done_partitions, write_partition
from mmray.tables.schemas import FeatureShape, feature_schema, vectors_to_column

__all__ = ["import_features"]

Step = ImportedStep | MediaError


def import_features(config: ConfigLike) -> dict[str, Any]:
    """Bring the feature table to completion and return its summary, as `extract` does.

    Raises:
        SamplesError: where the samples are not whole, or an array is not there or has no feature's shape.
        TableError: where a feature is not imported, or the folder holds a table of something else.
        BudgetError: where too large a share of the samples has no feature.
    """
    config = as_config(config)
    if extracted := [name for name, feature in config.features.items() if feature.kind != "imported"]:
        raise TableError(f"features {', '.join(extracted)} are not imported; run `mmray extract`")
    storage, folder = Storage(config.storage), features_folder(config)
    start, spec = time.perf_counter(), feature_spec(config)
    if made_with := storage.read_json(f"{folder}/_spec.json"):
        made_with.pop("fingerprint")
        remedy = "set these back, give another `output`, or delete the folder to start over"
        require_same(folder, made_with, spec, remedy)
    sources: dict[str, Columns] = {}
    plan = _plan(config, storage, folder, sources)
    summary = storage.read_json(f"{folder}/_summary.json")
    if summary and len(done_partitions(storage, folder)) == plan.partitions:
        return {**summary, "rows_this_run": 0}

    storage.write_json(f"{folder}/_spec.json", {**spec, "fingerprint": hash_of(spec)})
    tally = _write_all(config, storage, folder, plan, sources)
    summary = {
        "rows": tally.rows,
        "failed_rows": tally.failed_rows,
        "failures": tally.failures(),
        "seconds": round(time.perf_counter() - start, 3),
        "rows_this_run": plan.rows,
        "stage_seconds": {},
        "partitions": plan.partitions,
        "fingerprint": hash_of(spec),
        "content": f"{tally.content:016x}",
        "samples": plan.digest,
        "splits": plan.splits,
        "output": folder,
    }
    storage.write_json(f"{folder}/_summary.json", summary)
    return summary


def _plan(config: Config, storage: Storage, folder: str, sources: dict[str, Columns]) -> SamplePlan:
    """The samples, checked and cut; those of a file of arrays are written as a manifest first."""
    manifest = config.samples.manifest
    if not isinstance(manifest, str) or (is_manifest(manifest) and not done_partitions(storage, manifest)):
        return plan_samples(config, storage, f"{folder}/_plan")
    sources[manifest] = read_columns(manifest, storage)
    sets = [name for name, target in config.targets.items() if target.kind == "multilabel"]
    rows = samples(sources[manifest], config.samples.columns, list(config.targets), sets)
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    written = config.path("samples.parquet")
    storage.write(written, sink.getvalue())
    own = config.samples.model_copy(update={"manifest": written, "columns": {}})
    return plan_samples(config.model_copy(update={"samples": own}), storage, f"{folder}/_plan")


def _write_all(
    config: Config, storage: Storage, folder: str, plan: SamplePlan, sources: dict[str, Columns]
) -> Tally:
    """Write every partition, counting rows and failures."""
    parts = [plan.read(storage, partition) for partition in range(plan.partitions)]
    table = pa.concat_tables(parts)
    ids, splits = table["sample_id"].to_pylist(), table["split"].to_pylist()
    columns, shapes = {}, {}
    for name, feature in config.features.items():
        assert isinstance(feature, ImportedFeature), name
        found = _of_samples(config, storage, name, feature, ids, sources)
        shapes[name] = _shape(name, feature, found)
        if feature.context:
            columns[name] = in_context(feature.context, ids, splits, found)
        else:
            columns[name] = iter(found)
    schema = feature_schema(shapes, config.targets)
    tally = Tally()
    with console.progress("import", total=plan.rows) as meter:
        for partition, part in enumerate(parts):
            rows = _rows(part, columns, shapes, schema)
            tally.add_notes(write_partition(storage, folder, partition, rows, notes_of(rows)))
            meter.advance(rows.num_rows)
    tally.check_budget(config.extract.max_failed_fraction, plan.rows)
    return tally


def _of_samples(
    config: Config,
    storage: Storage,
    name: str,
    feature: ImportedFeature,
    ids: list[str],
    sources: dict[str, Columns],
) -> list[Step]:
    """A feature of every sample, in their order; `absent` where its source has no such id."""
    path = config.imported_from(feature)
    if path not in sources:
        sources[path] = read_columns(path, storage)
    renamed = config.samples.columns if path == config.samples.manifest else {}
    theirs = sample_ids(sources[path], renamed)
    if len(set(theirs)) < len(theirs):
        raise TableError(f"features.{name}: {path} has several rows of the same id")
    by_id = dict(zip(theirs, steps(name, feature, sources[path]), strict=True))
    if not by_id.keys() & set(ids):
        raise TableError(
            f"features.{name}: none of the ids in {path} ({', '.join(theirs[:3])} …) is one of the samples' "
            f"({', '.join(ids[:3])} …)"
        )
    absent = MediaError("absent", f"{path} has no such sample")
    return [by_id.get(sample_id, absent) for sample_id in ids]


def _shape(name: str, feature: ImportedFeature, found: list[Step]) -> FeatureShape:
    """Words, or vectors that all have the same length.

    Raises:
        TableError: where they do not, or no row has any.
    """
    present = [step.value for step in found if isinstance(step, ImportedStep)]
    dims = Counter(None if isinstance(value, list) else value.shape[1] for value in present)
    if not dims:
        raise TableError(f"features.{name}: not one sample has this feature")
    if len(dims) > 1:
        told = ", ".join(f"{count} of {dim or 'words'}" for dim, count in dims.most_common(3))
        raise TableError(f"features.{name}: vectors of different lengths: {told}")
    (dim,) = dims
    if dim is None and feature.context:
        raise TableError(f"features.{name}: context needs vectors, these are words")
    return FeatureShape(dim, feature.dtype)


def _rows(
    part: pa.Table, columns: dict[str, Iterator[Step]], shapes: dict[str, FeatureShape], schema: pa.Schema
) -> pa.Table:
    """The feature rows of a partition's samples; takes as many steps off each of `columns`."""
    made: dict[str, Any] = {name: part[name] for name in schema.names if name in part.column_names}
    errors: list[list[dict[str, Any]]] = [[] for _ in range(part.num_rows)]
    for name, shape in shapes.items():
        found = [next(columns[name]) for _ in range(part.num_rows)]
        for row, step in enumerate(found):
            if isinstance(step, MediaError):
                told = {"reason": step.reason, "detail": step.detail[:500], "attempts": 1}
                errors[row].append({"stage": "import", "modality": name, **told})
        there = [step if isinstance(step, ImportedStep) else None for step in found]
        values: list[Any] = [step and step.value for step in there]
        made[name] = (
            pa.array(values, shape.arrow_type) if shape.dim is None else vectors_to_column(values, shape)
        )
        made[f"{name}_length"] = [0 if value is None else len(value) for value in values]
        made[f"{name}_start_s"] = [step and step.start_s for step in there]
        made[f"{name}_step_s"] = [step and step.step_s for step in there]
    made["errors"] = errors
    arrays = [
        pa.array(made[field.name], field.type) if isinstance(made[field.name], list) else made[field.name]
        for field in schema
    ]
    return pa.table(arrays, schema=schema)
