"""Parquet as `datasets` and others write it: media inside are fetched cell by cell, classes have names."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmray.errors import MediaError
from mmray.storage.filesystem import Storage
from mmray.storage.uris import cell_of, cell_uri
from tests.samples.conftest import WORDS, Read

PICTURE = {"still": {"kind": "frames", "source": "image", "size": 64}}
SOUNDS = [np.random.default_rng(i).bytes(1000 + i) for i in range(30)]
MEDIUM = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def datasets_metadata(features: dict[str, Any]) -> dict[bytes, bytes]:
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def put(
    path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None, **options: Any
) -> dict[str, str]:
    table = pa.table(columns)
    if features:
        table = table.replace_schema_metadata(datasets_metadata(features))
    pq.write_table(table, path, **options)
    return {"manifest": str(path)}


def structs(paths: bool = True) -> pa.Array:
    return pa.array(
        [{"bytes": s, "path": f"{i}.wav" if paths else None} for i, s in enumerate(SOUNDS)], MEDIUM
    )


@pytest.mark.parametrize("paths", [True, False])
@pytest.mark.parametrize("kind", ["struct", "binary", "large_binary"])
def test_media_inside_are_the_bytes_of_their_rows(tmp_path, read: Read, kind, paths):
    audio = structs(paths) if kind == "struct" else pa.array(SOUNDS, getattr(pa, kind)())
    ids, label = [f"s{i}" for i in range(30)], ["h"] * 30
    columns = {"sample_id": ids, "label": label, "audio": audio}
    found = read(put(tmp_path / "m.parquet", columns, row_group_size=7))
    assert list(found.media("audio").values()) == SOUNDS
    assert len({row["group"] for row in found.rows.values()}) == 30
    row = found.rows["s3"]["audio"]
    with Storage().media(row) as path:
        assert path.endswith(".wav") == (kind == "struct" and paths)
    assert not Path(path).exists()


def test_cells_are_read_in_any_order_and_again(tmp_path):
    put(tmp_path / "m.parquet", {"audio": structs()}, row_group_size=7)
    rng = np.random.default_rng(0)
    for row in [0, 29, 28, 3, 3, 6, 7, 6, *rng.integers(30, size=40).tolist()]:
        with Storage().media(cell_uri(f"{tmp_path}/m.parquet", row, "audio")) as path:
            assert Path(path).read_bytes() == SOUNDS[row]
    put(tmp_path / "m.parquet", {"audio": pa.array([b"new"])})
    with Storage().media(cell_uri(f"{tmp_path}/m.parquet", 0, "audio")) as path:
        assert Path(path).read_bytes() == b"new", "a file that was written again is read again"


@pytest.mark.parametrize(
    ("row", "column", "reason", "said"),
    [
        (30, "audio", "fetch_failed", "no row 30: there are 30"),
        (0, "video", "fetch_failed", "no column 'video'"),
        (0, "other/é &#", "missing_file", "the cell is empty"),
    ],
)
def test_a_cell_that_is_not_there_is_a_failure_of_its_sample(tmp_path, row, column, reason, said):
    put(tmp_path / "m.parquet", {"audio": structs(), "other/é &#": pa.nulls(30, pa.binary())})
    uri = cell_uri(f"{tmp_path}/m.parquet", row, column)
    assert cell_of(uri) == (f"{tmp_path}/m.parquet", row, column)
    with pytest.raises(MediaError) as caught, Storage().media(uri):
        pass
    assert caught.value.reason == reason
    assert said in caught.value.detail


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "folder", "text"])
def test_a_file_that_is_none_is_a_failure_of_its_samples(tmp_path, damage):
    path = tmp_path / "m.parquet"
    put(path, {"audio": structs()}, row_group_size=7)
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "absent":
        path.write_bytes({"empty": b"", "cut": whole[:-20], "text": b"hello"}[damage])
    with pytest.raises(MediaError) as caught, Storage().media(cell_uri(str(path), 1, "audio")):
        pass
    assert caught.value.reason == ("missing_file" if damage == "absent" else "fetch_failed")
    assert str(path) in caught.value.detail


def test_media_on_s3(s3, tmp_path, read: Read):
    put(
        tmp_path / "m.parquet",
        {"sample_id": [f"s{i}" for i in range(30)], "audio": structs()},
        row_group_size=7,
    )
    Storage().write(s3.uri("inside", "m.parquet"), (tmp_path / "m.parquet").read_bytes())
    found = read({"manifest": s3.uri("inside", "m.parquet")})
    assert list(found.media("audio").values()) == SOUNDS


def test_bytes_or_paths_row_by_row(tmp_path, read: Read):
    cells = [
        {"bytes": b"here", "path": None},
        {"bytes": None, "path": "there.wav"},
        None,
        {"bytes": None, "path": None},
    ]
    (tmp_path / "there.wav").write_bytes(b"there")
    columns = {"sample_id": list("abcd"), "label": list("hhss"), "audio": pa.array(cells, MEDIUM)}
    for group in (1, 4):
        found = read(put(tmp_path / "m.parquet", columns, row_group_size=group))
        media = {name: row["audio"] for name, row in found.rows.items()}
        assert media["b"] == f"{tmp_path}/there.wav"
        assert media["c"] is media["d"] is None
        assert "samples without any of video, audio: 2 (c, d)" in found.said
        del found.rows["c"], found.rows["d"]
        assert found.media("audio") == {"a": b"here", "b": b"there"}


def test_what_datasets_say_of_their_columns_is_taken_over(tmp_path, read: Read):
    names = ["cat", "dog", "bird"]
    features = {
        "img": {"_type": "Image"},
        "label": {"names": names, "_type": "ClassLabel"},
        "tags": {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "Sequence"},
    }
    images = pa.array([{"bytes": bytes([i]), "path": None} for i in range(4)], MEDIUM)
    columns = {"img": images, "label": [2, 0, -1, 1], "tags": [[0, 1], [], None, [2]]}
    targets = {"label": {"kind": "classification"}, "tags": {"kind": "multilabel"}}
    found = read(put(tmp_path / "train-0.parquet", columns, features), PICTURE, targets)
    assert list(found.rows) == [f"train-0:{i}" for i in range(4)]
    assert [row["label"] for row in found.rows.values()] == ["bird", "cat", None, "dog"]
    assert [row["tags"] for row in found.rows.values()] == [["cat", "dog"], [], None, ["bird"]]
    assert list(found.media("image").values()) == [bytes([i]) for i in range(4)]
    assert "column taken as 'image', as the file's metadata say: 1 (img)" in found.said
    assert "rows without 'sample_id': their place is their id: 4" in found.said
    bad = read(
        put(tmp_path / "train-0.parquet", {**columns, "label": [2, 0, 7, 1]}, features), PICTURE, targets
    )
    assert "row 3: label: 7 is not the number of one of its 3 classes" in bad.said


def test_the_name_of_a_medium_may_be_the_id(tmp_path, read: Read):
    samples = put(tmp_path / "m.parquet", {"audio": structs(), "label": ["h"] * 30})
    found = read({**samples, "columns": {"sample_id": "audio.path"}})
    assert list(found.rows) == [f"{i}.wav" for i in range(30)]


def test_types_of_other_programs(tmp_path, read: Read):
    columns = {
        "sample_id": pa.array([b"a", b"b"]),  # texts without their annotation, as old writers have them
        "text": pa.array(["x y", "é"], pa.large_string()),
        "label": pa.array(["h", "s"]).dictionary_encode(),
        "start_s": pa.array([1, 2], pa.int8()),
        "end_s": pa.array([Decimal("3.50"), Decimal("4.00")], pa.decimal128(8, 2)),
        "unused": pa.array([{"deep": [{"deeper": 1}]}, None]),
    }
    found = read(put(tmp_path / "m.parquet", columns), WORDS)
    assert [row["text"] for row in found.rows.values()] == ["x y", "é"]
    assert [(row["start_s"], row["end_s"], row["label"]) for row in found.rows.values()] == [
        (1, 3.5, "h"),
        (2, 4, "s"),
    ]


def test_two_columns_of_one_name_are_refused_where_they_are_asked_for(tmp_path, read: Read):
    def put_twice(name: str) -> dict[str, str]:
        arrays = [pa.array([value]) for value in ("a", "x", "1", "2")]
        pq.write_table(
            pa.Table.from_arrays(arrays, ["sample_id", "text", name, name]), tmp_path / "m.parquet"
        )
        return {"manifest": str(tmp_path / "m.parquet")}

    assert "two columns are called 'label'" in read(put_twice("label"), WORDS).said
    assert set(read(put_twice("notes"), WORDS).rows) == {"a"}


def test_bytes_that_are_no_text_do_not_flood_a_message(tmp_path, read: Read):
    columns = {"sample_id": list("abc"), "text": pa.array([b"\xff" * 10**6] * 3), "label": list("hhs")}
    found = read(put(tmp_path / "m.parquet", columns), WORDS)
    assert found.refused
    assert "row 1: text: expected text, got 1000000 bytes" in found.said
    assert len(found.said) < 1000


def test_reading_the_index_does_not_read_the_media(tmp_path, read: Read):
    big = [np.random.default_rng(i).bytes(2**20) for i in range(20)]
    audio = pa.array([{"bytes": b, "path": None} for b in big], MEDIUM)
    samples = put(tmp_path / "m.parquet", {"audio": audio, "label": ["h"] * 20}, row_group_size=5)
    before = pa.total_allocated_bytes()
    peak_before = pa.default_memory_pool().max_memory() or before
    found = read(samples)
    assert len(found.rows) == 20
    assert (pa.default_memory_pool().max_memory() or 0) <= max(peak_before, before + 2 * 2**20)
