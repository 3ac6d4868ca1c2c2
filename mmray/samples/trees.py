"""What a file of arrays holds → columns that all have the same rows.

A file is read as a tree of dicts, lists and arrays. Known forms, each also below the names of splits:

    {name: [N, …]}                           columns
    {id: {name: value}}, [{name: value}]     rows, as JSON and pickles have them
    {name: {id: value}}                      columns by id
    {id: [T, D] or [D]}                      one feature, by id, where no name is one that the config asks for
    {video: {features: [T, D], intervals: [T, 2]}}    a computational sequence of the CMU SDK: a recording's
                                             steps and the seconds of each, below `NAME/data`

What is no row of it is left and named, what could be rows but is not understood is refused.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmray.errors import SamplesError
from mmray.samples.split import SPLITS, split_read

__all__ = ["IDS", "INTERVALS", "UNNAMED", "VECTORS", "Arrays", "Columns", "arrays_of", "joined"]

Columns = dict[str, Any]
"""{name: array [N, …], or list of N}; None in a list: this row has none."""
IDS = ("sample_id", "id", "ids", "vid", "name")
"""What the column of ids may be called."""
VECTORS = ""
"""Name of the column of a file that holds one feature and no name for it."""
UNNAMED = frozenset(
    {
        "data",
        "arr_0",
        "x",
        "feature",
        "features",
        "vectors",
        "embedding",
        "embeddings",
        "array",
        "label",
        "labels",
    }
)
"""What an array is called that has no name of its own (POM's and MMMO's files hold one called `data`)."""
INTERVALS = "_intervals"
"""Ends the name of a column of [T, 2]: from when to when each step of a recording lasts, s."""


@dataclass(frozen=True)
class Arrays:
    """The columns of a source."""

    path: str
    columns: Columns
    notes: list[str] = field(default_factory=list)
    """What is odd, or was left."""

    @property
    def rows(self) -> int:
        """How many rows all columns have."""
        return len(next(iter(self.columns.values()), ()))

    @property
    def named(self) -> str:
        """The columns, for a message."""
        names = [name for name in self.columns if name != VECTORS]
        return ", ".join(names[:20]) + (f", … ({len(names)} in all)" if len(names) > 20 else "")


def arrays_of(path: str, tree: Any, wanted: Collection[str] = ()) -> Arrays:
    """The columns of a tree; `wanted` are the names that the config asks for.

    Raises:
        SamplesError: where it has none of the known forms, or its arrays differ in their rows.
    """
    if isinstance(tree, np.ndarray | list | tuple) and len(tree) and not isinstance(tree[0], Mapping):
        tree = {VECTORS: tree} if isinstance(tree, np.ndarray) else tree
    if isinstance(tree, Mapping):
        tree = {_key(key): value for key, value in tree.items()}
    notes: list[str] = []
    parts = _splits(path, tree, notes) if isinstance(tree, Mapping) else {}
    if not parts:
        return Arrays(path, _columns(path, tree, wanted, notes), notes)
    return joined(
        path,
        {s: _columns(f"{path}: {name}", part, wanted, notes) for s, (name, part) in parts.items()},
        notes,
    )


def joined(path: str, parts: Mapping[str, Columns], notes: list[str]) -> Arrays:
    """{split: its columns}: one after another, in the order of the splits; what one lacks is None there.

    Raises:
        SamplesError: where some have ids and some have none.
    """
    names = list(dict.fromkeys(name for split in SPLITS for name in parts.get(split, ())))
    rows = {split: len(next(iter(parts[split].values()), ())) for split in SPLITS if split in parts}
    for name in names:
        lacking = [split for split in rows if name not in parts[split]]
        if lacking and name in IDS:
            raise SamplesError(f"{path}: {lacking[0]} has no array {name!r}; the other splits have one")
        for split in lacking:
            notes.append(f"{path}: {split} has no array {name!r}: not known for its {rows[split]} rows")
    columns: Columns = {
        name: [value for split, count in rows.items() for value in parts[split].get(name, [None] * count)]
        for name in names
    }
    columns["split"] = [split for split, count in rows.items() for _ in range(count)]
    return Arrays(path, columns, notes)


def _key(key: Any) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)


# ------------------------------------------------------------------------------------ splits


def _split(name: str) -> str | None:
    try:
        return split_read(name)
    except ValueError:
        return None


def _splits(path: str, tree: Mapping[str, Any], notes: list[str]) -> dict[str, tuple[str, Any]]:
    """{split: (its name there, what it holds)} of a tree of splits; {} where it is none."""
    names = {name: split for name in tree if (split := _split(name)) and _is_part(tree[name])}
    if "train" not in names.values() and set(names) != set(tree):
        return {}
    evals = [name for name in names if name.strip().lower().startswith("eval")]
    if any(split == "test" for name, split in names.items() if name not in evals):
        names |= dict.fromkeys(evals, "val")  # beside a test split it is the one to choose by
    by_split: dict[str, tuple[str, Any]] = {}
    for name, split in names.items():
        if split in by_split:
            raise SamplesError(f"{path}: {by_split[split][0]!r} and {name!r} are both {split}: leave out one")
        by_split[split] = (name, tree[name])
    known = {_key(column) for name in names if isinstance(tree[name], Mapping) for column in tree[name]}
    for name in [name for name in tree if name not in names]:
        part = tree[name]
        if isinstance(part, Mapping) and known & {_key(column) for column in part}:
            raise SamplesError(
                f"{path}: {name!r} stands beside {', '.join(names)} and has rows like them, but is no split: "
                f"name it train, val or test, or leave it out"
            )
        notes.append(f"{path}: {name!r} beside {', '.join(names)} is no split: left out")
    return by_split


def _is_part(value: Any) -> bool:
    """Whether it can be what a split holds: named arrays, or rows."""
    if isinstance(value, Mapping):
        return True
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(row, Mapping) for row in value)


# ------------------------------------------------------------------------------------ columns


def _columns(path: str, tree: Any, wanted: Collection[str], notes: list[str]) -> Columns:
    if isinstance(tree, list | tuple) and tree and all(isinstance(row, Mapping) for row in tree):
        return _of_rows([{_key(name): value for name, value in row.items()} for row in tree])
    if not isinstance(tree, Mapping) or not tree:
        raise SamplesError(f"{path}: expected {{name: array}} or {{split: {{name: array}}}}")
    tree = {_key(key): value for key, value in tree.items()}
    if recordings := _recordings(tree):
        return recordings
    maps = {name: value for name, value in tree.items() if isinstance(value, Mapping)}
    asked = {VECTORS, *wanted, *IDS, *UNNAMED}
    if len(maps) == len(tree) and not asked & tree.keys():
        rows = [{_key(name): value for name, value in row.items()} for row in tree.values()]
        _refuse_parts(path, tree, rows)
        if any(name in IDS for row in rows for name in row):
            return _of_rows(rows)
        return {"id": list(tree), **_of_rows(rows)}
    if maps.keys() & asked:
        return _of_columns_by_id(path, tree, notes)
    held = {name: column for name, column in tree.items() if _has_rows(column)}
    if left := [name for name in tree if name not in held]:
        told = ", ".join(left[:5]) + (f" … ({len(left)})" if len(left) > 5 else "")
        notes.append(f"{path}: {told}: no rows there, left out")
    if held and wanted and not asked & held.keys() and not _numbered(held, wanted) and _are_vectors(held):
        return {"id": list(held), VECTORS: list(held.values())}
    lengths = {name: len(column) for name, column in held.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in list(lengths.items())[:20])
        raise SamplesError(f"{path}: the arrays have different numbers of rows ({told})")
    if not held:
        raise SamplesError(f"{path}: no arrays here (there are: {', '.join(list(tree)[:20])})")
    return held


def _refuse_parts(path: str, tree: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what are parts with many rows each, by names that are no splits', and no rows by id."""
    for name in {name for row in rows for name in row if name in IDS}:
        ids = [row.get(name) for row in rows]
        if any(isinstance(some, list | tuple | np.ndarray) and np.size(some) > 1 for some in ids):
            told = ", ".join(list(tree)[:5]) + (f", … ({len(tree)})" if len(tree) > 5 else "")
            raise SamplesError(
                f"{path}: {told} hold many rows each and are no names of splits: call them train, val, test"
            )


def _has_rows(column: Any) -> bool:
    return isinstance(column, list | tuple) or (isinstance(column, np.ndarray) and column.ndim > 0)


def _numbered(columns: Mapping[str, Any], wanted: Collection[str]) -> bool:
    return any(f"{name}_0" in columns for name in wanted)


def _are_vectors(columns: Mapping[str, Any]) -> bool:
    """Whether all are vectors, or sequences of vectors, of one length: those of a feature."""
    widths = set()
    for column in columns.values():
        first = column[0] if len(column) else None
        is_sequence = isinstance(first, list | tuple | np.ndarray)
        innermost = first if is_sequence else column
        if not len(innermost) or isinstance(innermost[0], str | bytes | Mapping):
            return False
        widths.add((is_sequence, len(innermost)))
    return len(widths) == 1


def _of_rows(rows: Sequence[Mapping[str, Any]]) -> Columns:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _of_columns_by_id(path: str, tree: Mapping[str, Any], notes: list[str]) -> Columns:
    maps = {
        name: {_key(k): v for k, v in value.items()}
        for name, value in tree.items()
        if isinstance(value, Mapping)
    }
    if left := [name for name in tree if name not in maps]:
        notes.append(f"{path}: {', '.join(left[:5])}: not by id as the others, left out")
    ids = list(dict.fromkeys(row for column in maps.values() for row in column))
    return {"id": ids, **{name: [column.get(row) for row in ids] for name, column in maps.items()}}


def _recordings(tree: Mapping[str, Any]) -> Columns:
    """The computational sequences of a tree: of each its steps and their intervals; {} without."""
    if all(isinstance(part, Mapping) and {"features", "intervals"} <= set(part) for part in tree.values()):
        tree = {VECTORS: {"data": tree}}
    found: dict[str, Mapping[str, Any]] = {}
    for name, sequence in tree.items():
        data = sequence.get("data") if isinstance(sequence, Mapping) else None
        whole = (
            isinstance(data, Mapping)
            and data
            and all(
                isinstance(part, Mapping) and {"features", "intervals"} <= set(part) for part in data.values()
            )
        )
        if not whole:
            return {}
        found[name] = data  # pyright: ignore[reportArgumentType]
    ids = list(dict.fromkeys(_key(video) for data in found.values() for video in data))
    columns: Columns = {"id": ids}
    for name, data in found.items():
        by_id = {_key(video): part for video, part in data.items()}
        columns[name] = [by_id[video]["features"] if video in by_id else None for video in ids]
        columns[name + INTERVALS] = [by_id[video]["intervals"] if video in by_id else None for video in ids]
    return columns
