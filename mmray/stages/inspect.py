"""A path → what lies there: a table, a model, a training, or all that a project's output holds."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from mmray import console
from mmray.errors import TableError
from mmray.storage.filesystem import Storage
from mmray.tables.parts import done_partitions, read_partition, read_schema
from mmray.tables.schemas import errors_of

__all__ = ["inspect", "show"]


def inspect(path: str) -> dict[str, Any]:
    """What is at `path` and where the stages write below it: {path, tables, training, model}.

    A table has {path, rows, files, splits, schema, failures}; `training` is the results of the latest
    one, `model` a model's description; null where there is none.

    Raises:
        TableError: where there is none of these.
    """
    storage, path = Storage(), path.rstrip("/")
    if not storage.names(path):
        raise TableError(f"{path}: no such folder, or an empty one")
    training = storage.read_json(f"{path}/results.json") or storage.read_json(f"{path}/train/results.json")
    below = [f"{path}/predictions/{name}" for name in sorted(storage.names(f"{path}/predictions"))]
    below += [f"{path}/{name}" for name in sorted(storage.names(path)) if path.endswith("/predictions")]
    tables = [table for folder in (path, f"{path}/features", *below) if (table := _table(storage, folder))]
    model = storage.read_json(f"{path}/model.json")
    if not (tables or training or model):
        raise TableError(f"{path}: no feature table, prediction table, training or model here")
    return {"path": path, "tables": tables, "training": training, "model": model}


def show(found: Mapping[str, Any]) -> None:
    """Print what `inspect` found."""
    for table in found["tables"]:
        splits = ", ".join(f"{name} {count}" for name, count in sorted(table["splits"].items()))
        lines = [f"{table['path']}: {table['rows']} rows ({splits}) in {table['files']} files"]
        lines += [f"  {name:<24} {kind}" for name, kind in table["schema"].items()]
        console.out.print("\n".join(lines), markup=False, soft_wrap=True)
        if table["failures"]:
            console.out.print(console.failure_table(table["failures"]))
    if training := found["training"]:
        console.out.print(f"training: {training['model']}", markup=False)
        console.show_results(training)
    if found["model"]:
        console.out.print_json(data=found["model"])


def _table(storage: Storage, folder: str) -> dict[str, Any] | None:
    """Counts, schema and failures of a table; reads ids, splits and errors only. None: not a table."""
    partitions = done_partitions(storage, folder)
    if not partitions:
        return None
    schema = read_schema(storage, folder)
    rows, splits, by_reason = 0, Counter(), Counter()
    for partition in partitions:
        part = read_partition(storage, folder, partition, ["sample_id", "split", "errors"])
        rows += part.num_rows
        splits.update(split or "no split" for split in part["split"].to_pylist())
        failed = {(error["sample_id"], error["modality"], error["reason"]) for error in errors_of(part)}
        by_reason.update((modality, reason) for _, modality, reason in sorted(failed))
    return {
        "path": folder,
        "rows": rows,
        "files": len(partitions),
        "splits": dict(splits),
        "schema": {field.name: str(field.type) for field in schema},
        "failures": [{"modality": m, "reason": r, "count": n} for (m, r), n in by_reason.most_common()],
    }
