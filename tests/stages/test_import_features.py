"""A public set's pickle and a feature table become a feature table; what stays out is a row with a reason."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmray.config import Config, load_config
from mmray.errors import ConfigError, SamplesError, TableError
from mmray.samples.of_arrays import project_index
from mmray.stages.extract import extract
from mmray.stages.import_features import import_features
from mmray.stages.report import write_report
from mmray.stages.train import up_to_date
from mmray.storage.filesystem import Storage
from mmray.tables.features import require_data
from mmray.tables.read import read
from mmray.tables.schemas import ragged_from_column

ROWS = {"train": 70, "valid": 20, "test": 21}
CONFIG = """
output: {folder}/out
samples: {{manifest: {folder}/mosi.pkl}}
targets: {{regression_labels: {{kind: regression}}, annotations: {{kind: classification}}}}
features: {{text: {{kind: imported}}, audio: {{kind: imported}}, vision: {{kind: imported}}}}
"""


def mmsa_split(name: str, rows: int) -> dict:
    """A split as MMSA's pickles have it: padded arrays, lengths of audio and vision, labels, ids."""
    rng = np.random.default_rng(rows)
    lengths = {key: rng.integers(1, 9, rows) for key in ("text", "audio", "vision")}
    split: dict = {"id": [f"{name}{row // 5}$_${row % 5}" for row in range(rows)]}
    for key, dim in (("text", 6), ("audio", 5), ("vision", 4)):
        split[key] = rng.normal(size=(rows, 8, dim)).astype(np.float32)
        split[key][np.arange(8) >= lengths[key][:, None]] = 0
    split |= {f"{key}_lengths": lengths[key].tolist() for key in ("audio", "vision")}
    score = rng.uniform(-3, 3, rows)
    split |= {"raw_text": np.array(["so good"] * rows), "regression_labels": score}
    split |= {"annotations": np.where(score > 0, "Positive", "Negative")}
    return {**split, "lengths": lengths}


@pytest.fixture
def splits(tmp_path) -> dict:
    splits = {name: mmsa_split(name, rows) for name, rows in ROWS.items()}
    splits["train"]["audio"][3, 0, 0] = -np.inf
    shown = {split: {k: v for k, v in part.items() if k != "lengths"} for split, part in splits.items()}
    (tmp_path / "mosi.pkl").write_bytes(pickle.dumps(shown))
    return splits


def project(folder: Path, *overrides: str, text: str = CONFIG) -> Config:
    (folder / "config.yaml").write_text(text.format(folder=folder))
    return load_config(folder / "config.yaml", overrides)


def table_of(config: Config) -> pa.Table:
    return read(config)


def test_an_mmsa_pickle_needs_no_options_and_comes_out_as_it_went_in(splits, tmp_path):
    config = project(tmp_path)
    summary = import_features(config)
    assert (summary["rows"], summary["failed_rows"], summary["partitions"]) == (111, 1, 2)
    assert summary["splits"] == {"train": 70, "val": 20, "test": 21}
    assert summary["failures"] == [{"feature": "audio", "reason": "corrupt", "count": 1}]
    table = table_of(config)
    assert table["sample_id"].to_pylist() == [name for part in splits.values() for name in part["id"]]
    for target in ("regression_labels", "annotations"):
        truth = [value for part in splits.values() for value in part[target].tolist()]
        assert table[target].to_pylist() == truth
    for name in ("text", "audio", "vision"):
        lengths = np.concatenate([part["lengths"][name] for part in splits.values()])
        padded = np.concatenate([part[name] for part in splits.values()])
        if name == "audio":
            lengths[3] = 0
            assert table[name][3].as_py() is None
        values, offsets = ragged_from_column(table[name])
        np.testing.assert_array_equal(np.diff(offsets), lengths)
        np.testing.assert_array_equal(values, padded[np.arange(8) < lengths[:, None]])
    # A finished table is left; the report reads it; train knows whether its source is still the same.
    assert import_features(config)["rows_this_run"] == 0
    data = require_data(config, Storage())
    assert {name: table.fingerprint for name, table in data.tables.items()}.keys() == summary[
        "features"
    ].keys()
    write_report(config.output, Storage(), config)
    (tmp_path / "mosi.pkl").write_bytes((tmp_path / "mosi.pkl").read_bytes() + b" ")
    with pytest.raises(TableError, match=r"no complete table of text, audio, vision"):
        require_data(config, Storage())


def test_a_feature_table_is_a_source_and_gets_context(splits, tmp_path):
    import_features(project(tmp_path))
    config = project(
        tmp_path,
        f"output={tmp_path}/second",
        f"features={{voice: {{kind: imported, path: {tmp_path}/out, array: audio, "
        "context: '(.+)\\$_\\$([0-9]+)'}}",
    )
    assert import_features(config)["failed_rows"] == 1
    first, second = table_of(project(tmp_path)), table_of(config)
    assert second["voice_error"][3].as_py()["reason"] == "corrupt"  # the reason it had there
    means: list = [None if x is None else np.mean(x, axis=0) for x in first["audio"].to_pylist()]
    for row, (value, start_s) in enumerate(zip(second["voice"].to_pylist(), second["voice_start_s"])):
        if row == 3:
            continue
        group = [other for other in range(row - row % 5, row - row % 5 + 5) if row < 70 and other != 3]
        if row < 70:
            np.testing.assert_allclose(value, [means[other] for other in group], rtol=1e-5, atol=1e-6)
            assert start_s.as_py() == -group.index(row)
    assert set(second["voice_step_s"].to_pylist()) == {1.0, None}


def test_context_ends_at_the_split_of_today(tmp_path):
    rows = "".join(f"a_{n},{n % 2},{n}\n" for n in range(6)) + "b_0,0,9\nb_1,1,8\n"
    (tmp_path / "m.csv").write_text("sample_id,y,x_0\n" + rows)
    splits = "samples.split={group: {regex: '_[0-9]'}, folds: 3}"
    base = [f"samples.manifest={tmp_path}/m.csv", "targets={y: {kind: classification}}", splits]
    feature = f"features={{x: {{kind: imported, path: {tmp_path}/m.csv, context: '(.)_([0-9])'}}}}"
    seen = []
    for fold in range(3):
        config = project(tmp_path, *base, feature, f"samples.split.fold={fold}")
        assert import_features(config)["rows_this_run"] == 8
        table = table_of(config)
        split = dict(zip([0, 1, 2, 3, 4, 5, 9, 8], table["split"].to_pylist(), strict=True))
        for row, value in enumerate(table["x"].to_pylist()):
            neighbours = {split[step[0]] for step in value}
            assert neighbours == {table["split"][row].as_py()}, "of another split is nobody's neighbour"
        seen.append(table["split"].to_pylist())
    assert seen[0] != seen[1]
    config = project(tmp_path, *base, feature)
    assert import_features(config)["rows_this_run"] == 0, "the first fold's table is still there"
    with pytest.raises(ConfigError, match=r"compare\.folds.*context"):
        project(tmp_path, *base, feature, "compare.folds=true")


def test_features_of_several_files_are_joined_by_id(tmp_path):
    (tmp_path / "m.csv").write_text("sample_id,y,split\na,1,train\nb,2,val\nc,3,test\n")
    (tmp_path / "x.csv").write_text("sample_id,x_0,x_1\nc,5,6\na,1,2\nz,0,0\n")
    np.savez(tmp_path / "z.npz", id=np.array(["b", "c", "a"]), z=np.arange(6.0).reshape(3, 2))
    config = project(
        tmp_path,
        f"samples.manifest={tmp_path}/m.csv",
        "targets={y: {kind: regression}}",
        f"features={{x: {{kind: imported, path: {tmp_path}/x.csv}}, "
        f"z: {{kind: imported, path: {tmp_path}/z.npz, dtype: float16}}}}",
    )
    summary = import_features(config)
    assert (summary["rows"], summary["failed_rows"]) == (3, 0)
    table = table_of(config)
    assert table["x"].to_pylist() == [[[1, 2]], None, [[5, 6]]]
    assert table["z"].to_pylist() == [[[4, 5]], [[0, 1]], [[2, 3]]]
    assert [error and error["reason"] for error in table["x_error"].to_pylist()] == [None, "absent", None]


def test_imported_features_stand_beside_extracted_ones(tmp_path):
    (tmp_path / "m.csv").write_text("sample_id,y,split,text\na,1,train,so good\nb,2,val,so bad\n")
    np.savez(tmp_path / "x.npz", id=["b", "a"], x=np.arange(2.0))
    config = project(
        tmp_path,
        f"samples.manifest={tmp_path}/m.csv",
        "targets={y: {kind: regression}}",
        f"features={{x: {{kind: imported, path: {tmp_path}/x.npz}}, words: {{kind: tokens}}}}",
    )
    assert list(import_features(config)["features"]) == ["x"]
    with pytest.raises(TableError, match=r"no complete table of words .*run `mmray extract`"):
        require_data(config, Storage())
    # the index serves both, so that extracting makes it no second time
    index = (tmp_path / "out/samples/_index.json").read_bytes()
    project_index(config, Storage())
    assert (tmp_path / "out/samples/_index.json").read_bytes() == index
    assert read(config, features=["x"])["x"].to_pylist() == [[[1.0]], [[0.0]]]


def test_labels_that_change_in_the_arrays_are_seen_without_an_import(tmp_path):
    given = {"id": [*"wxyz"], "split": ["train", "train", "val", "test"], "y": [1.0, 2.0, 3.0, 4.0]}
    np.savez(tmp_path / "x.npz", id=given["id"], x=np.ones((4, 2)))
    np.savez(tmp_path / "mosi.npz", **given)
    config = project(
        tmp_path,
        f"samples.manifest={tmp_path}/mosi.npz",
        "targets={y: {kind: regression}}",
        f"features={{x: {{kind: imported, path: {tmp_path}/x.npz}}}}",
    )
    import_features(config)
    before = up_to_date(config, Storage()).index.digest
    np.savez(tmp_path / "mosi.npz", **{**given, "y": [1.0, 2.0, 3.0, 5.0]})
    data = up_to_date(config, Storage())  # its features are those that were imported
    assert data.index.digest != before
    assert read(config)["y"].to_pylist() == [1.0, 2.0, 3.0, 5.0]


@pytest.mark.parametrize("array", [list, np.array])
def test_sets_of_labels_are_imported_as_lists_or_arrays(tmp_path, array):
    tags = [["a"], ["a", "b"], [], ["b"]]
    given = {"id": [*"wxyz"], "tags": [array(some) for some in tags], "x": np.ones((4, 2))}
    parts = {"train": slice(0, 2), "valid": slice(2, 3), "test": slice(3, 4)}
    shown = {split: {key: values[part] for key, values in given.items()} for split, part in parts.items()}
    (tmp_path / "mosi.pkl").write_bytes(pickle.dumps(shown))
    config = project(tmp_path, "targets={tags: {kind: multilabel}}", "features={x: {kind: imported}}")
    import_features(config)
    assert table_of(config)["tags"].to_pylist() == tags


def test_what_cannot_be_imported_is_told(splits, tmp_path):
    config = project(tmp_path)
    with pytest.raises(TableError, match="text, audio, vision are imported; run `mmray import-features`"):
        extract(config)
    with pytest.raises(ConfigError, match="must have two groups"):
        project(tmp_path, "features.text.context=(.+)")
    with pytest.raises(SamplesError, match="no array 'mood' for mood"):
        import_features(project(tmp_path, "targets={mood: {kind: classification}}"))
    splits["train"]["id"][1] = splits["train"]["id"][0]
    shown = {split: {k: v for k, v in part.items() if k != "lengths"} for split, part in splits.items()}
    (tmp_path / "mosi.pkl").write_bytes(pickle.dumps(shown))
    with pytest.raises(SamplesError, match=r"'train0\$_\$0' stands .*1.* 2"):
        import_features(config)
