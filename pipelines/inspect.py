"""What lies below a path: a feature table, a prediction table, a model, or a project's output."""

from mmray.errors import TableError
from mmray.partitions import done_partitions, read_partition
from mmray.storage import Storage
from mmray.tables import errors_of
from pipelines import console

__all__ = ["inspect"]


def inspect(path: str) -> None:
    """Print counts, schema and failures of a table, or settings and metrics of a model.

    Raises:
        TableError: where there is none of these.
    """
    storage, path = Storage(), path.rstrip("/")
    if storage.exists(f"{path}/model.json"):
        model = storage.read_json(f"{path}/model.json")
        console.out.print_json(data={key: value for key, value in model.items() if key != "vocabulary"})
        return
    tables = [path, *(f"{path}/{name}" for name in ("features", "predictions"))]
    found = [table for table in tables if done_partitions(storage, table)]
    if not found:
        raise TableError(f"{path}: no feature table, prediction table or model here")
    for table in found:
        _inspect_table(storage, table)


def _inspect_table(storage: Storage, folder: str) -> None:
    partitions = done_partitions(storage, folder)
    first = read_partition(storage, folder, partitions[0])
    rows, by_reason = 0, {}
    for partition in partitions:
        part = read_partition(storage, folder, partition, ["sample_id", "errors"])
        rows += part.num_rows
        for error in errors_of(part):
            key = (error["modality"], error["reason"])
            by_reason.setdefault(key, set()).add(error["sample_id"])
    console.out.print(f"[bold]{folder}[/]: {rows} rows in {len(partitions)} files")
    for field in first.schema:
        console.out.print(f"  {field.name:<24} {field.type}", markup=False)
    failures = [{"modality": m, "reason": r, "count": len(ids)} for (m, r), ids in by_reason.items()]
    if failures:
        console.out.print(console.failure_table(failures))
