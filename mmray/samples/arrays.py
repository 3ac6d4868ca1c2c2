"""A file or folder of arrays (or a feature table) → named columns of N rows each, whatever format it has.

    .pkl  .pickle  .p  .json    trees of dicts, lists and arrays: see `samples.trees`
    .npz  .h5  .hdf5  .csd      the same; groups, or names like train/text, are the branches
    .npy                        one array [N, …]
    .csv  .tsv  .jsonl  .parquet    a row a sample; vectors as lists, or as numbered columns name_0, name_1, …
    a folder                    a feature table of mmray, or one of .npy files: [D] or [T, D] of the sample
                                whose id is the file's name, below folders named as splits or not

`{split}` in a path stands for the name of each split that there is. A pickle is a program; it is not run but
interpreted (`samples.pickles`). All that is read must fit into memory, which is looked at before.
"""

import io
import math
import os
import re
import zipfile
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mmray.errors import SamplesError, TableError
from mmray.samples.manifest import EXTENSIONS, read_rows
from mmray.samples.pickles import read_pickle
from mmray.samples.raw import parse_json
from mmray.samples.split import NAMES, split_read
from mmray.samples.trees import VECTORS, Arrays, Columns, arrays_of, joined
from mmray.storage.filesystem import Storage
from mmray.storage.uris import absolute
from mmray.tables.parts import done_partitions, read_table
from mmray.tables.schemas import ragged_from_column

__all__ = ["is_manifest", "numbered", "read_arrays", "source_files", "table_folder"]

SPLIT = "{split}"
READ = ".pkl, .npz, .npy, .h5, .csd, .json, .csv, .jsonl, .parquet, a folder of .npy, or a feature table"


def is_manifest(path: str) -> bool:
    """Whether it is a table that `samples.manifest` takes as it is."""
    return _extension(path) in EXTENSIONS and SPLIT not in path


def table_folder(path: str, name: str, storage: Storage) -> str:
    """`path`; of a project's output, or its `features`, the one table of the feature `name` there.

    Raises:
        SamplesError: where there are several.
    """
    if SPLIT in path or storage.infos(path):  # files
        return path
    for folder in (path, f"{path.rstrip('/')}/features"):
        tables = sorted(
            table
            for table in storage.names(folder)
            if re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{16}}", table)
        )
        if len(tables) > 1:
            raise SamplesError(f"{folder}: several tables of {name} ({', '.join(tables)}): name one of them")
        if tables:
            return f"{folder.rstrip('/')}/{tables[0]}"
    return path


def source_files(path: str, storage: Storage) -> dict[str, list[str]]:
    """{split, or '' for all: its files} of a path, each an absolute path or URI.

    Raises:
        SamplesError: where there is none.
        StorageError: where storage cannot be listed.
    """
    if SPLIT in path:
        found = {
            split: [uri for name in names.split() for way in (name, name.capitalize(), name.upper())
                    if (uri := path.replace(SPLIT, way)) and storage.infos(uri)]
            for split, names in NAMES.items()
        }  # fmt: skip
        found = {split: uris for split, uris in found.items() if uris}
        if not found:
            raise SamplesError(f"{path}: no such file for any split (train, valid, val, dev, test, …)")
        if double := next((uris for uris in found.values() if len(uris) > 1), None):
            raise SamplesError(f"{path}: {' and '.join(double)} are of one split: leave out one")
        return found
    if storage.infos(path):
        return {"": [path]}
    files = sorted(uri for uri in storage.find(path) if _extension(uri) == "npy")
    if not files:
        raise SamplesError(f"{path}: no such file, nor a folder of .npy files; arrays are read from {READ}")
    return {"": files}


def read_arrays(path: str, storage: Storage, wanted: Collection[str] = ()) -> Arrays:
    """All that is in a source, in memory; the rows of splits one after another.

    `wanted` are the names that the config asks for: they tell columns from ids.

    Raises:
        SamplesError: where the format is not known, or the file is not what its name says.
        TableError: where a folder is no feature table, or h5py is not installed.
        StorageError: where it cannot be read.
    """
    if done_partitions(storage, path):
        return Arrays(path, _feature_table(path, storage))
    files = source_files(path, storage)
    if "" in files and files[""] != [path]:
        return _folder(path, files[""], storage)
    if "" in files:
        return arrays_of(path, _tree(path, storage), wanted)
    parts = {split: arrays_of(uri, _tree(uri, storage), wanted) for split, (uri,) in files.items()}
    notes = [note for part in parts.values() for note in part.notes]
    for part in parts.values():
        part.columns.pop("split", None)  # the file's name says it
    return joined(path, {split: part.columns for split, part in parts.items()}, notes)


def _extension(path: str) -> str:
    name = path.rstrip("/").rpartition("/")[2]
    return name.rpartition(".")[2].lower() if "." in name else ""


def _tree(path: str, storage: Storage) -> Any:
    extension = _extension(path)
    if extension in EXTENSIONS:
        rows = [row for _, row in read_rows(storage, path)]
        if not rows:
            raise SamplesError(f"{path}: has no rows")
        return rows
    readers = {
        **dict.fromkeys(("pkl", "pickle", "p"), lambda data: read_pickle(data, path)),
        **dict.fromkeys(("h5", "hdf5", "csd"), lambda data: _hdf5(path, data)),
        "npz": lambda data: _npz(path, data),
        "npy": lambda data: _npy(path, data),
        "json": lambda data: _json(path, data),
    }
    if extension not in readers:
        raise SamplesError(f"{path}: arrays are read from {READ}")
    return readers[extension](storage.read(path))


def _require_memory(path: str, size: int) -> None:
    """Refuse what does not fit into memory, before it is unpacked.

    Raises:
        SamplesError: saying how much it is.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > free:
        raise SamplesError(
            f"{path}: holds {size / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB of memory are free"
        )


def _npy(path: str, data: bytes) -> np.ndarray:
    try:
        header = io.BytesIO(data)
        version = np.lib.format.read_magic(header)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version in read_header:
            shape, _, dtype = read_header[version](header)
            if max(1, dtype.itemsize) * math.prod(max(1, length) for length in shape) > len(data) + 2**20:
                raise ValueError(f"shape {shape} does not fit its size")
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError, TypeError, SyntaxError, MemoryError, OverflowError) as error:
        raise SamplesError(f"{path}: not an .npy of plain numbers or texts: {str(error)[:200]}") from None


def _npz(path: str, data: bytes) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.getinfo(name).file_size for name in archive.namelist()}
            _require_memory(path, sum(members.values()))
            flat = {
                name.removesuffix(".npy"): _npy(f"{path}: {name}", archive.read(name))
                for name in members
                if name.endswith(".npy")
            }
    except (ValueError, OSError, EOFError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise SamplesError(f"{path}: not an .npz of plain arrays: {str(error)[:200]}") from None
    except zipfile.BadZipFile as error:
        raise SamplesError(f"{path}: not an .npz of plain arrays: {error}") from None
    return _nested(path, flat)


def _nested(path: str, flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`train/text` → {train: {text: …}}."""
    tree: dict[str, Any] = {}
    for name, array in flat.items():
        branch = tree
        *groups, last = name.strip("/").split("/")
        for group in groups:
            branch = branch.setdefault(group, {})
            if not isinstance(branch, dict):
                raise SamplesError(f"{path}: {group!r} is an array and a group")
        branch[last] = array
    return tree


def _hdf5(path: str, data: bytes) -> dict[str, Any]:
    try:
        import h5py
    except ImportError:
        raise TableError(f"{path}: HDF5 needs h5py: pip install 'mmray[hdf5]'") from None
    flat: dict[str, np.ndarray] = {}

    def size_of(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            sizes.append(int(item.size or 0) * max(8, item.dtype.itemsize))

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            texts = h5py.check_string_dtype(item.dtype)
            flat[name] = np.asarray(item.asstr()[()] if texts else item[()])

    sizes: list[int] = []
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            file.visititems(size_of)
            _require_memory(path, sum(sizes))
            file.visititems(take)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise SamplesError(f"{path}: not a whole HDF5 file: {str(error)[:200]}") from None
    if not flat:
        raise SamplesError(f"{path}: no arrays here")
    return _nested(path, flat)


def _json(path: str, data: bytes) -> Any:
    """What a JSON file holds; of one with a row a line, as data sets have them by this name, its rows."""
    try:
        text = data.decode("utf-8-sig")
        try:
            return parse_json(text)
        except ValueError:
            lines = [line for line in text.split("\n") if line.strip()]
            if len(lines) < 2 or not all(line.startswith("{") for line in lines):
                raise
            return [parse_json(line) for line in lines]
    except ValueError as error:
        raise SamplesError(f"{path}: {str(error)[:200]}") from None


def _folder(folder: str, files: Sequence[str], storage: Storage) -> Arrays:
    """A file a sample: its id is the path below the folder, without the name of a split before it."""
    above = absolute(folder).rstrip("/") + "/"
    paths = [uri.removeprefix(above).rpartition(".")[0] for uri in files]
    tops = {path.partition("/")[0] for path in paths}
    known = {way for names in NAMES.values() for way in names.split()}
    in_splits = all("/" in path for path in paths) and {top.lower() for top in tops} <= known
    ids = [path.partition("/")[2] if in_splits else path for path in paths]
    values = [_npy(uri, storage.read(uri)) for uri in files]
    columns: Columns = {"id": ids, VECTORS: values}
    if in_splits:
        columns["split"] = [split_read(path.partition("/")[0]) for path in paths]
    return Arrays(folder, columns)


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
