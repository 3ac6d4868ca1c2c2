"""A file of arrays (or a feature table) → named columns of N rows each, whatever format it has.

    .pkl  .pickle    {split: {name: [N, …]}}, as MMSA writes them, or {name: [N, …]}
    .npz  .h5 .hdf5  the same; groups, or names like train/text, are the splits
    .csv  .jsonl  .parquet    a row a sample; vectors as lists, or as numbered columns name_0, name_1, …
    a folder         a feature table of mmray

A pickle is a program; it is not run but interpreted (`samples.pickles`).
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mmray.errors import SamplesError, TableError
from mmray.samples.manifest import read_rows
from mmray.samples.pickles import read_pickle
from mmray.storage.filesystem import Storage
from mmray.tables.parts import done_partitions, read_table
from mmray.tables.schemas import ragged_from_column

__all__ = ["Columns", "is_manifest", "read_columns"]

Columns = dict[str, Any]
"""{name: array [N, …], or list of N}; `split` is one of them where the file tells it."""

SPLIT_NAMES = {"train": "train", "valid": "val", "val": "val", "dev": "val", "test": "test"}
MANIFESTS = ("csv", "jsonl", "ndjson", "parquet", "pq")


def is_manifest(path: str) -> bool:
    """Whether it is a table that `samples.manifest` takes as it is."""
    return _extension(path) in MANIFESTS


def read_columns(path: str, storage: Storage) -> Columns:
    """All that is in a file, in memory; the rows of splits one after another.

    Raises:
        SamplesError: where the format is not known, or the file is not what its name says.
        TableError: where a folder is no feature table, or h5py is not installed.
        StorageError: where it cannot be read.
    """
    if done_partitions(storage, path):
        return _feature_table(path, storage)
    extension = _extension(path)
    if extension in MANIFESTS:
        return _tabular(path, storage)
    readers = {"pkl": _pickle, "pickle": _pickle, "npz": _npz, "h5": _hdf5, "hdf5": _hdf5}
    if extension not in readers:
        raise SamplesError(
            f"{path}: arrays are read from .pkl, .npz, .h5, .csv, .jsonl, .parquet or a feature table"
        )
    return _side_by_side(path, readers[extension](path, storage.read(path)))


def _extension(path: str) -> str:
    name = path.rstrip("/").rpartition("/")[2]
    return name.rpartition(".")[2].lower() if "." in name else ""


def _side_by_side(path: str, tree: Any) -> Columns:
    """A tree of splits, or of arrays, as columns that all have the same rows."""
    if not isinstance(tree, Mapping) or not tree:
        raise SamplesError(f"{path}: expected {{name: array}} or {{split: {{name: array}}}}")
    if not set(tree) <= set(SPLIT_NAMES):
        return _equally_long(path, {name: column for name, column in tree.items() if _has_rows(column)})
    parts = []
    for split in sorted(tree, key=list(SPLIT_NAMES).index):
        columns = tree[split]
        if not isinstance(columns, Mapping):
            raise SamplesError(f"{path}: {split} holds no named arrays")
        part = _equally_long(f"{path}: {split}", {k: c for k, c in columns.items() if _has_rows(c)})
        rows = len(next(iter(part.values()), ()))
        parts.append({**part, "split": [SPLIT_NAMES[split]] * rows})
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: [row for part in parts for row in part[name]] for name in names}


def _has_rows(column: Any) -> bool:
    return isinstance(column, list | tuple) or (isinstance(column, np.ndarray) and column.ndim > 0)


def _equally_long(what: str, columns: Columns) -> Columns:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise SamplesError(f"{what}: the arrays have different numbers of rows ({told})")
    if not columns:
        raise SamplesError(f"{what}: no arrays here")
    return columns


def _pickle(path: str, data: bytes) -> Any:
    return read_pickle(data, path)


# ------------------------------------------------------------------------------------ the other formats


def _npz(path: str, data: bytes) -> dict[str, Any]:
    import zipfile

    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return _nested({name: archive[name] for name in archive.files})
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise SamplesError(f"{path}: not an .npz of plain arrays: {error}") from None


def _nested(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`train/text` → {train: {text: …}}, one level deep."""
    tree: dict[str, Any] = {}
    for name, array in flat.items():
        group, slash, rest = name.partition("/")
        if slash:
            tree.setdefault(group, {})[rest] = array
        else:
            tree[name] = array
    return tree


def _hdf5(path: str, data: bytes) -> dict[str, Any]:
    try:
        import h5py
    except ImportError:
        raise TableError(f"{path}: HDF5 needs h5py: pip install 'mmray[hdf5]'") from None
    flat: dict[str, np.ndarray] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            texts = h5py.check_string_dtype(item.dtype)
            flat[name] = np.asarray(item.asstr()[()] if texts else item[()])

    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            file.visititems(take)
    except OSError as error:
        raise SamplesError(f"{path}: not an HDF5 file: {error}") from None
    return _nested(flat)


def _tabular(path: str, storage: Storage) -> Columns:
    rows = [row for _, row in read_rows(storage, path)]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _feature_table(folder: str, storage: Storage) -> Columns:
    table = pa.concat_tables(read_table(storage, folder))
    columns: Columns = {}
    for field in table.schema:
        column = table[field.name]
        if pa.types.is_list(field.type) and pa.types.is_fixed_size_list(field.type.value_type):
            values, offsets = ragged_from_column(column)
            rows = np.split(values, offsets[1:-1])
            present = column.is_valid().to_pylist()
            columns[field.name] = [row if there else None for row, there in zip(rows, present, strict=True)]
        else:
            columns[field.name] = column.to_pylist()
    return columns


def numbered(columns: Mapping[str, Any], name: str) -> Sequence[str]:
    """The columns name_0, name_1, … that together are a vector, in their order."""
    found = {}
    for column in columns:
        if match := re.fullmatch(rf"{re.escape(name)}_([0-9]+)", column):
            found[int(match[1])] = column
    return [found[i] for i in sorted(found)] if sorted(found) == list(range(len(found))) else []
