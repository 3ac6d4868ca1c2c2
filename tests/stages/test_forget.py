"""What is forgotten is in no file any more, and the others go on as if nothing had been."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from mmray.errors import SamplesError, TableError
from mmray.samples.index import make_index
from mmray.stages.forget import forget
from mmray.stages.inspect import identifying
from mmray.storage.filesystem import Storage
from mmray.tables.features import require_data, states
from mmray.tables.parts import done_partitions, read_table, write_partition

GONE = ["s004", "s017", "s200"]


def test_rows_are_gone_everywhere_and_the_others_are_not_made_again(table_project, tmp_path):
    config = table_project()
    storage, output = Storage(), Path(config.output)
    data = require_data(config, storage)
    before = {
        name: pa.concat_tables(read_table(storage, table.folder)) for name, table in data.tables.items()
    }
    for at, partition in enumerate(data.index.partitions.tolist()):
        rows = data.index.read(storage, partition).select(["sample_id", "split", "emotion"])
        write_partition(storage, f"{output}/predictions/m", partition, rows, {"made_from": f"{at}"})
    for name in ("evaluations/m/evaluation.json", "explanations/m/explanation.json"):
        storage.write_json(f"{output}/{name}", {"sample_id": "s004"})
    storage.write(f"{output}/report.html", b"s004")
    storage.write_json(f"{output}/models/r/model.json", {"fingerprint": "m"})
    (tmp_path / "ids.txt").write_text("\n".join([*GONE, "nobody", ""]))

    told = forget(str(output), str(tmp_path / "ids.txt"))
    assert (told["ids"], told["found"]) == (4, 3)
    assert sorted(told["tables"].values()) == [3, 3, 3]
    splits = ("train", "train", "train", "val", "test")
    assert told["models"] == [
        {"run": "r", **{s: sum(splits[int(n[1:]) % 5] == s for n in GONE) for s in ("train", "val", "test")}}
    ]
    assert any("nobody" in note for note in told["notes"])
    for path in output.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(name.encode() in content for name in GONE), path

    # The source without them: the index is made again, and no row of another sample is to be done.
    manifest = Path(str(config.samples.manifest))
    lines = [line for line in manifest.read_text().splitlines() if json.loads(line)["sample_id"] not in GONE]
    manifest.write_text("".join(f"{line}\n" for line in lines))
    index = make_index(config, storage)
    assert index.rows == 200
    for name, table in data.tables.items():
        there = done_partitions(storage, table.folder)
        assert all(state.done for state in states(storage, index, table, there))
        rest = pa.concat_tables(read_table(storage, table.folder)).to_pylist()
        assert rest == [row for row in before[name].to_pylist() if row["sample_id"] not in GONE]


def test_what_can_identify_people_is_named(table_project):
    config = table_project()
    Storage().write(f"{config.output}/report.html", b"s004")
    Storage().write_json(config.path("features", "_extract-0.json"), {})  # a file among the folders
    found = {(row["where"].partition("-")[0], row["column"]) for row in identifying(config.output)}
    assert found >= {
        ("samples", "sample_id"),
        ("samples", "audio"),
        ("samples", "text"),
        ("samples", "emotion"),
        ("features/voice", "voice"),
        ("features/words", "words"),
        ("report.html", None),
    }
    assert ("samples", "split") not in found
    with pytest.raises(TableError, match="name a config's output"):
        identifying(f"{config.output}/nothing")


def test_what_cannot_be_forgotten_is_said(table_project, tmp_path):
    with pytest.raises(TableError, match="name a config's output"):
        forget(str(tmp_path), ["s004"])
    with pytest.raises(SamplesError, match="no ids"):
        forget(table_project().output, [])
