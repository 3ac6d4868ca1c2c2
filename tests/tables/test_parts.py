"""Partition files: what their footers tell, and how little of a file is read for it."""

import builtins
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmray.config import StorageConfig
from mmray.storage.filesystem import Storage
from mmray.tables.parts import (
    digest_of_partitions,
    done_partitions,
    read_notes,
    read_partition,
    write_digests,
    write_partition,
)
from mmray.tables.schemas import FeatureShape, vectors_to_column


def table(rows: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table({"x": rng.normal(size=rows), "id": [str(row) for row in range(rows)]})


def test_notes_come_back_and_stay_out_of_the_rows(tmp_path):
    storage, folder = Storage(), str(tmp_path)
    rows = table(10).replace_schema_metadata({b"classes": b"[]"})
    written = write_partition(storage, folder, 3, rows, {"failed_rows": 2})
    assert list(read_notes(storage, folder, [3])) == [written]
    assert (written["rows"], written["failed_rows"]) == (10, 2)
    read = read_partition(storage, folder, 3)
    assert read.equals(rows, check_metadata=True)
    assert pq.read_table(tmp_path / "part-000003.parquet").equals(rows), "another reader sees the same rows"


def test_the_digest_is_the_rows_alone(tmp_path):
    def digest(rows: pa.Table, **notes) -> str:
        return write_partition(Storage(), str(tmp_path), 0, rows, notes)["digest"]

    same = digest(table(10))
    assert digest(table(10), failed_rows=1) == same
    assert digest(table(10, seed=1)) != same
    assert digest(pa.concat_tables([table(10).slice(0, 4), table(10).slice(4)])) == same


def test_only_footers_are_read(tmp_path, monkeypatch):
    """400 files of 160 kB: their notes cost one footer each, in any number."""
    storage, folder, count = Storage(), str(tmp_path), 400
    for partition in range(count):
        write_partition(storage, folder, partition, table(20_000 if partition == 0 else 10, partition))
    read: list[int] = []

    class Counted(io.FileIO):
        def readinto(self, buffer):
            size = super().readinto(buffer)
            read.append(size or 0)
            return size

        def read(self, size=-1):
            data = super().read(size)
            read.append(len(data or b""))
            return data

    plain = builtins.open
    monkeypatch.setattr(
        builtins,
        "open",
        lambda path, mode="r", *rest, **options: (
            Counted(path, "r")
            if mode == "rb" and str(path).startswith(folder)
            else plain(path, mode, *rest, **options)
        ),
    )
    notes = list(read_notes(storage, folder, done_partitions(storage, folder)))
    assert [note["rows"] for note in notes] == [20_000] + [10] * (count - 1)
    assert read, "the files were opened in a way this test does not see"
    assert sum(read) < count * 66_000
    assert Path(folder, "part-000000.parquet").stat().st_size > 160_000


def test_the_digest_of_some_partitions_is_about_them_alone(tmp_path):
    tables = {number: pa.table({"sample_id": [f"s{number}"], "x": [number]}) for number in (0, 1, 2**20)}
    folder, storage = str(tmp_path), Storage()
    digests = {n: int(write_partition(storage, folder, n, t)["digest"], 16) for n, t in tables.items()}
    some = np.array([0, 2**20])
    by_footers = digest_of_partitions(storage, folder, some)
    write_digests(storage, folder, digests)
    assert digest_of_partitions(storage, folder, some) == by_footers == f"{digests[0] ^ digests[2**20]:016x}"
    assert digest_of_partitions(storage, folder, np.array([1])) == f"{digests[1]:016x}"
    assert done_partitions(storage, folder) == sorted(tables)


def test_other_files_are_no_partitions(tmp_path):
    for name in (
        ".part-000001.parquet.ab12.tmp",
        "part-1.parquet",
        "_summary.json",
        "part-000002.parquet.tmp",
    ):
        (tmp_path / name).touch()
    write_partition(Storage(), str(tmp_path), 1_234_567, table(1))
    assert done_partitions(Storage(), str(tmp_path)) == [1_234_567]


@pytest.mark.parametrize("rows", [0, 1])
def test_small_partitions(tmp_path, rows):
    assert write_partition(Storage(), str(tmp_path), 0, table(rows))["rows"] == rows


def test_of_a_large_file_only_the_columns_asked_for_are_fetched(s3, flaky_s3):
    """Counted in the ranges that a proxy before the server is asked for."""
    vectors = np.random.default_rng(0).standard_normal((64, 8, 512)).astype(np.float32)
    shape = FeatureShape(512)
    table = pa.table(
        {
            "sample_id": [f"s{row}" for row in range(64)],
            "face": vectors_to_column(list(vectors), shape),
            "face_length": [8] * 64,
        }
    )
    folder = s3.uri("ranged")
    storage = Storage(StorageConfig(endpoint_url=flaky_s3.endpoint_url))
    write_partition(storage, folder, 0, table, {"media": "x"})
    size = storage.size(f"{folder}/part-000000.parquet")
    assert size > 900_000

    def fetched(read: Callable[[], object]) -> int:
        flaky_s3.requests.clear()
        read()
        asked = [bounds for path, bounds in flaky_s3.requests if path.endswith(".parquet") and bounds]
        pairs = [bounds.removeprefix("bytes=").split("-") for bounds in asked]
        return sum(int(last) - int(first) + 1 for first, last in pairs)

    small = ["sample_id", "face_length"]
    assert read_partition(storage, folder, 0, small).column_names == small
    assert fetched(lambda: read_partition(storage, folder, 0, small)) < 0.1 * size
    assert fetched(lambda: list(read_notes(storage, folder, [0]))) < 0.1 * size
    assert fetched(lambda: read_partition(storage, folder, 0)) >= 0.9 * size
