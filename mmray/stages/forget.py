"""Ids → they are gone from every table of a project, and it is said which models had learned from them.

    features/…       rows removed from the part files
    predictions/…    likewise
    samples/         removed whole: the next run makes the index again, from a source that must not name them
    evaluations/ explanations/ report.html      removed: they quote samples, and are made again in a moment

Models stay as they are: what they learned cannot be taken out, only trained again without it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmray import console
from mmray.errors import SamplesError, TableError
from mmray.samples.index import index_at
from mmray.storage.filesystem import Storage
from mmray.storage.lock import locked
from mmray.storage.uris import absolute
from mmray.tables.accounting import notes_of
from mmray.tables.identity import media_digest
from mmray.tables.parts import done_partitions, file_name, read_with_notes, write_partition

__all__ = ["forget", "show"]

QUOTING = ("evaluations", "explanations")
"""Folders whose files name samples and are made from the tables."""


def forget(output: str, ids: str | Sequence[str]) -> dict[str, Any]:
    """Remove samples from all tables below a project's output.

    Args:
        output: The folder that a config's `output` names, local or s3://.
        ids: Their ids, or a file with one a line.

    Returns:
        {ids, found, tables: {folder: rows removed}, removed, models: [{run, train, val, test}], notes,
        output}; `models` says how many of them stood in each split when the index was made last.

    Raises:
        SamplesError: where no id is given.
        TableError: where nothing of mmray is there.
        LockedError: where another driver is at work there.
    """
    storage, output = Storage(), absolute(output).rstrip("/")
    wanted = _ids(storage, ids)
    if not storage.names(output) & {"samples", "features", "predictions"}:
        raise TableError(f"{output}: no samples, features or predictions here; name a config's output")
    with locked(storage, output, "forget"):
        found, splits = _known(storage, output, wanted)
        tables: dict[str, int] = {}
        for kind in ("features", "predictions"):
            for name in sorted(storage.names(f"{output}/{kind}")):
                folder = f"{output}/{kind}/{name}"
                removed, here = _remove(storage, folder, wanted)
                found |= here
                if removed:
                    tables[folder] = removed
        notes = []
        if lacking := sorted({*wanted} - found):
            notes.append(f"{len(lacking)} ids are in no table: {', '.join(lacking[:5])}")
        notes.append("remove them from the source as well: the next run reads it again, and brings them back")
        gone = _remove_quoting(storage, output) if found else []
        models = _models(storage, output, splits)
        if any(model["train"] for model in models):
            notes.append(
                "models that were trained on them stay; train again, once the source is without them"
            )
    return {
        "ids": len(wanted),
        "found": len(found),
        "tables": tables,
        "removed": gone,
        "models": models,
        "notes": notes,
        "output": output,
    }


def _ids(storage: Storage, ids: str | Sequence[str]) -> list[str]:
    if isinstance(ids, str):
        lines = storage.read(absolute(ids)).decode("utf-8-sig").splitlines()
        ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise SamplesError("no ids are given: a file with one a line")
    return list(dict.fromkeys(ids))


def _known(storage: Storage, output: str, wanted: list[str]) -> tuple[set[str], dict[str, int]]:
    """Those of the ids that the index has, and {split: how many}."""
    known = storage.read_json(f"{output}/samples/_index.json")
    if known is None or not known["files"]:
        return set(), {}
    index = index_at(storage, f"{output}/samples")
    rows = index.small(storage, ["sample_id", "split"])
    rows = rows.filter(_among(rows["sample_id"], wanted))
    splits: dict[str, int] = {}
    for split in rows["split"].to_pylist():
        splits[split or "none"] = splits.get(split or "none", 0) + 1
    return {*rows["sample_id"].to_pylist()}, splits


def _among(column: pa.ChunkedArray, wanted: list[str]) -> Any:
    return pc.is_in(column, pa.array(wanted, pa.string()))  # pyright: ignore[reportAttributeAccessIssue]


def _remove(storage: Storage, folder: str, wanted: list[str]) -> tuple[int, set[str]]:
    """Removes the rows from a table; how many there were, and their ids."""
    removed, found = 0, set()
    for partition in done_partitions(storage, folder):
        ids, _ = read_with_notes(storage, folder, partition, ["sample_id"])
        inside = _among(ids["sample_id"], wanted)
        if not (count := pc.sum(inside).as_py()):  # pyright: ignore[reportAttributeAccessIssue]
            continue
        found |= {*ids["sample_id"].filter(inside).to_pylist()}
        table, notes = read_with_notes(storage, folder, partition)
        rest = table.filter(pc.invert(inside))  # pyright: ignore[reportAttributeAccessIssue]
        removed += count
        if rest.num_rows:
            write_partition(storage, folder, partition, rest, _notes(rest, notes))
        else:
            storage.remove(f"{folder}/{file_name(partition)}")
    return removed, found


def _notes(rest: pa.Table, notes: Mapping[str, Any]) -> dict[str, Any]:
    """The notes of what is left of a part file."""
    other = {key: value for key, value in notes.items() if key not in ("rows", "digest")}
    if "media_key" not in rest.column_names:
        return {**other, "made_from": ""}  # predictions: of other rows than these, and made again
    keys = rest["media_key"].to_pylist()
    name = rest.column_names[2]
    return {**other, **notes_of(rest, name), "media": media_digest(rest["sample_id"], keys)}


def _remove_quoting(storage: Storage, output: str) -> list[str]:
    """Removes the index and what is made from tables and quotes them."""
    gone, folder = [f"{output}/samples"], f"{output}/samples"
    known = storage.read_json(f"{folder}/_index.json")
    for name in sorted(storage.names(folder) - {known["ids"] if known else ""}):
        storage.remove(f"{folder}/{name}")
    if known:  # the partition of each id, by its hash, so that the others' rows are found where they are
        storage.write_json(f"{folder}/_index.json", {"ids": known["ids"], "source": {}, "files": {}})
    for kind in QUOTING:
        for folder in sorted(storage.names(f"{output}/{kind}")):
            for name in sorted(storage.names(f"{output}/{kind}/{folder}")):
                storage.remove(f"{output}/{kind}/{folder}/{name}")
            gone.append(f"{output}/{kind}/{folder}")
    if storage.exists(f"{output}/report.html"):
        storage.remove(f"{output}/report.html")
        gone.append(f"{output}/report.html")
    return gone


def _models(storage: Storage, output: str, splits: Mapping[str, int]) -> list[dict[str, Any]]:
    """The models of the project, and how many of the samples stood in each split."""
    counts = {split: splits.get(split, 0) for split in ("train", "val", "test")}
    runs = sorted(storage.names(f"{output}/models"))
    return [{"run": run, **counts} for run in runs if storage.exists(f"{output}/models/{run}/model.json")]


def show(summary: Mapping[str, Any]) -> None:
    """Print what was removed, and what has learned from it."""
    say = console.out.print
    say("\n[bold]forget[/]")
    say(f"  found    {summary['found']} of {summary['ids']} ids")
    for folder, rows in summary["tables"].items():
        say(f"  rows     {rows} from {folder}", markup=False, soft_wrap=True)
    for name in summary["removed"]:
        say(f"  removed  {name}", markup=False, soft_wrap=True)
    for model in summary["models"]:
        counts = ", ".join(f"{model[split]} in {split}" for split in ("train", "val", "test"))
        say(f"  model    {model['run']}: {counts}", markup=False)
    for note in summary["notes"]:
        say(f"  note     {note}", markup=False, soft_wrap=True)
