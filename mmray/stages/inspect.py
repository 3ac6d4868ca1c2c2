"""A path → what lies there: a table, a model, a training, or all that a project's output holds."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from mmray import console
from mmray.errors import TableError
from mmray.stages.identifying import identifying_in
from mmray.storage.filesystem import Storage
from mmray.tables.parts import done_partitions, read_partition, read_schema
from mmray.tables.schemas import errors_of

__all__ = ["identifying", "inspect", "show", "show_identifying"]


def inspect(path: str) -> dict[str, Any]:
    """What is at `path` and where the stages write below it: {path, tables, training, model}.

    A table has {path, rows, files, schema, failures}; `training` is the results in a model's
    folder, `model` its description; null where there is none.

    Raises:
        TableError: where there is none of these.
    """
    storage, path = Storage(), path.rstrip("/")
    if not storage.names(path):
        raise TableError(f"{path}: no such folder, or an empty one")
    training = storage.read_json(f"{path}/results.json")
    below = [f"{path}/predictions/{name}" for name in sorted(storage.names(f"{path}/predictions"))]
    below += [f"{path}/features/{name}" for name in sorted(storage.names(f"{path}/features"))]
    if path.endswith(("/predictions", "/features")):
        below += [f"{path}/{name}" for name in sorted(storage.names(path))]
    tables = [table for folder in (path, *below) if (table := _table(storage, folder))]
    model = storage.read_json(f"{path}/model.json")
    if not (tables or training or model):
        raise TableError(f"{path}: no feature table, prediction table, training or model here")
    return {"path": path, "tables": tables, "training": training, "model": model}


def identifying(output: str) -> list[dict[str, Any]]:
    """What below a config's output can identify people, [{where, column, why}].

    Raises:
        TableError: where there is nothing of that kind.
    """
    found = identifying_in(output.rstrip("/"), Storage())
    if not found:
        raise TableError(f"{output}: no samples, features or predictions here; name a config's output")
    return found


def show_identifying(found: list[dict[str, Any]]) -> None:
    """Print what can identify people."""
    for row in found:
        what = row["where"] + (f": {row['column']}" if row["column"] else "")
        console.out.print(f"  {what:<44} {row['why']}", markup=False, soft_wrap=True)


def show(found: Mapping[str, Any]) -> None:
    """Print what `inspect` found."""
    for table in found["tables"]:
        lines = [f"{table['path']}: {table['rows']} rows in {table['files']} files"]
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
    """Counts, schema and failures of a table; reads the errors only. None: not a table."""
    partitions = done_partitions(storage, folder)
    if not partitions:
        return None
    schema = read_schema(storage, folder)
    feature = schema.names[2] if "media_key" in schema.names else ""
    rows, by_reason = 0, Counter()
    for partition in partitions:
        part = read_partition(storage, folder, partition, ["sample_id", "error"])
        rows += part.num_rows
        by_reason.update(error["reason"] for error in errors_of(part, feature))
    return {
        "path": folder,
        "rows": rows,
        "files": len(partitions),
        "schema": {field.name: str(field.type) for field in schema},
        "failures": [{"feature": feature, "reason": r, "count": n} for r, n in by_reason.most_common()],
    }
