"""The forms that arrays come in, each against the same rows written out by hand."""

import json
import pickle

import numpy as np
import pytest

from mmray.errors import SamplesError
from mmray.samples.arrays import read_arrays
from mmray.samples.imported import samples
from mmray.samples.trees import INTERVALS, VECTORS, Arrays, arrays_of
from mmray.storage.filesystem import Storage

IDS = [f"clip{row}" for row in range(6)]
X_ND = np.arange(18, dtype=np.float32).reshape(6, 3)
SPLIT = ["train"] * 3 + ["val"] + ["test"] * 2
PARTS = {"train": slice(0, 3), "val": slice(3, 4), "test": slice(4, 6)}


def tree(names: dict[str, str], **columns) -> dict:
    given = {"id": IDS, "x": X_ND, **columns}
    return {
        name: {column: values[PARTS[split]] for column, values in given.items()}
        for name, split in names.items()
    }


def require_the_rows(arrays: Arrays, column: str = "x", splits: bool = True) -> None:
    order = np.argsort(arrays.columns["id"]) if "id" in arrays.columns else np.arange(6)
    found = np.array([arrays.columns[column][row] for row in order], dtype=np.float32)
    np.testing.assert_array_equal(found, X_ND)
    if splits:
        assert [arrays.columns["split"][row] for row in order] == SPLIT


@pytest.mark.parametrize(
    "names",
    [
        ("train", "valid", "test"),
        ("Train", "Validation", "Test"),
        ("training", "dev", "testing"),
        ("TRAIN", "DEV", "eval"),
        ("train", "eval", "test"),
    ],
)
def test_splits_by_the_names_that_people_give_them(names):
    arrays = arrays_of("x.pkl", tree(dict(zip(names, PARTS))), ["x"])
    require_the_rows(arrays)
    assert arrays.notes == []


def test_what_stands_beside_the_splits_is_left_and_named_unless_it_has_rows():
    splits = tree({"train": "train", "valid": "val", "test": "test"})
    notes = arrays_of("x.pkl", {**splits, "meta": {"author": "x"}, "version": np.arange(3)}).notes
    assert len(notes) == 2
    assert "'meta'" in notes[0]
    assert "'version'" in notes[1]
    with pytest.raises(SamplesError, match="'holdout2' stands beside train, valid, test and has rows"):
        arrays_of("x.pkl", {**splits, "holdout2": splits["test"]})
    with pytest.raises(SamplesError, match="'valid' and 'dev' are both val"):
        arrays_of("x.pkl", {**splits, "dev": splits["valid"]})


def test_parts_by_names_that_are_no_splits_are_refused_by_these_names():
    parts = {f"fold{k}": {"id": [f"{k}a", f"{k}b"], "x": np.ones((2, 3)), "y": [0, 1]} for k in (1, 2)}
    with pytest.raises(SamplesError, match="fold1, fold2 hold many rows each and are no names of splits"):
        arrays_of("x.pkl", parts, ["x", "y"])


def test_what_one_split_lacks_is_unknown_there_and_told():
    splits = tree({"train": "train", "valid": "val", "test": "test"}, y=np.arange(6))
    del splits["test"]["y"]
    arrays = arrays_of("x.pkl", splits)
    assert [None if y is None else int(y) for y in arrays.columns["y"]] == [0, 1, 2, 3, None, None]
    assert arrays.notes == ["x.pkl: test has no array 'y': not known for its 2 rows"]
    del splits["test"]["id"]
    with pytest.raises(SamplesError, match="test has no array 'id'"):
        arrays_of("x.pkl", splits)


@pytest.mark.parametrize("extension", ["json", "pkl"])
@pytest.mark.parametrize(
    "form",
    [
        [{"id": i, "x": x.tolist(), "split": s} for i, x, s in zip(IDS, X_ND, SPLIT)],
        {i: {"x": x.tolist(), "split": s} for i, x, s in zip(IDS, X_ND, SPLIT)},
        {"id": IDS, "x": X_ND.tolist(), "split": SPLIT},
        {"x": dict(zip(IDS, X_ND.tolist())), "split": dict(zip(IDS, SPLIT))},
        {s: [{"id": i, "x": x.tolist()} for i, x in zip(IDS[p], X_ND[p])] for s, p in PARTS.items()},
        {s: {i: {"x": x.tolist()} for i, x in zip(IDS[p], X_ND[p])} for s, p in PARTS.items()},
    ],
)
def test_trees_of_rows_and_columns(tmp_path, extension, form):
    path = tmp_path / f"set.{extension}"
    path.write_bytes(json.dumps(form).encode() if extension == "json" else pickle.dumps(form))
    require_the_rows(read_arrays(str(path), Storage(), ["x"]))


def test_vectors_by_id_are_told_from_columns_by_the_names_that_are_asked_for(tmp_path):
    by_id = dict(zip(IDS, X_ND))
    np.savez(tmp_path / "x.npz", **by_id)  # pyright: ignore[reportArgumentType]
    require_the_rows(read_arrays(str(tmp_path / "x.npz"), Storage(), ["voice"]), VECTORS, splits=False)
    assert read_arrays(str(tmp_path / "x.npz"), Storage(), ["clip0"]).rows == 3  # columns of three rows
    ragged = arrays_of("x.pkl", {i: np.ones((row + 1, 3)) for row, i in enumerate(IDS)}, ["voice"])
    assert [len(value) for value in ragged.columns[VECTORS]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("names", [("train", "valid", "test"), ("Train", "Dev", "Test")])
def test_split_in_a_path_stands_for_each_of_them(tmp_path, names):
    for name, part in zip(names, PARTS.values()):
        np.savez(tmp_path / f"x_{name}.npz", id=IDS[part], x=X_ND[part])
        np.save(tmp_path / f"v_{name}.npy", X_ND[part])
    require_the_rows(read_arrays(str(tmp_path / "x_{split}.npz"), Storage(), ["x"]))
    require_the_rows(read_arrays(str(tmp_path / "v_{split}.npy"), Storage(), ["x"]), VECTORS)
    with pytest.raises(SamplesError, match="no such file for any split"):
        read_arrays(str(tmp_path / "y_{split}.npz"), Storage())
    np.savez(tmp_path / "x_training.npz", id=IDS[:3], x=X_ND[:3])
    with pytest.raises(SamplesError, match="are of one split"):
        read_arrays(str(tmp_path / "x_{split}.npz"), Storage())


@pytest.mark.parametrize("in_splits", [False, True])
def test_a_folder_of_npy_files_is_a_feature_by_id(tmp_path, in_splits):
    folder = tmp_path / "voice"
    for row, sample_id in enumerate(IDS):
        below = folder / SPLIT[row] if in_splits else folder
        below.mkdir(parents=True, exist_ok=True)
        np.save(below / f"{sample_id}.npy", X_ND[row])
    require_the_rows(read_arrays(str(folder), Storage()), VECTORS, splits=in_splits)
    (folder / "odd.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, ")
    with pytest.raises(SamplesError, match=r"odd\.npy: not an \.npy"):
        read_arrays(str(folder), Storage())
    (tmp_path / "empty").mkdir()
    with pytest.raises(SamplesError, match=r"nor a folder of \.npy"):
        read_arrays(str(tmp_path / "empty"), Storage())


def test_an_array_larger_than_its_file_is_refused_before_it_is_made(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 0), }"
    header += b" " * (118 - len(header)) + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(SamplesError, match="does not fit its size"):
        read_arrays(str(tmp_path / "x.npy"), Storage())


def recordings(folder, name: str, steps: int, dim: int) -> np.ndarray:
    """A computational sequence of two videos (10 s) as the CMU SDK writes it; its [2, steps, dim]."""
    h5py = pytest.importorskip("h5py")
    x = np.random.default_rng(steps).normal(size=(2, steps, dim))
    edges = np.linspace(0, 10, steps + 1)
    with h5py.File(folder / f"{name}.csd", "w") as file:
        for video in range(2):
            group = file.create_group(f"{name}/data/video{video}")
            group["features"], group["intervals"] = x[video], np.stack([edges[:-1], edges[1:]], axis=1)
        file.create_group(f"{name}/metadata")["md5"] = np.array([b"{}"])
    return x


def test_a_computational_sequence_is_steps_with_times_and_labels_are_samples(tmp_path):
    x = recordings(tmp_path, "COVAREP", 100, 3)
    y = recordings(tmp_path, "Labels", 4, 2)
    sound = read_arrays(str(tmp_path / "COVAREP.csd"), Storage(), ["audio"])
    assert sound.columns["id"] == ["video0", "video1"]
    np.testing.assert_array_equal(sound.columns["COVAREP"][1], x[1])
    np.testing.assert_allclose(sound.columns["COVAREP" + INTERVALS][0][3], [0.3, 0.4])
    labels = read_arrays(str(tmp_path / "Labels.csd"), Storage(), ["Labels"])
    rows = samples(labels, {"score": "Labels[1]"}, ["score"])
    assert [row["sample_id"] for row in rows] == [f"video{v}[{s}]" for v in range(2) for s in range(4)]
    assert [row["score"] for row in rows] == y[:, :, 1].ravel().tolist()
    assert (rows[1]["start_s"], rows[1]["end_s"]) == (2.5, 5.0)


def test_an_element_of_an_array_is_a_target_and_a_whole_one_is_not():
    y = np.arange(34.0).reshape(2, 1, 17)
    arrays = Arrays("x.npz", {"id": ["a", "b"], "y": y})
    rows = samples(arrays, {"score": "y[3]"}, ["score"])
    assert [row["score"] for row in rows] == [3.0, 20.0]
    with pytest.raises(SamplesError, match="row 0 has 17 elements"):
        samples(arrays, {"score": "y[17]"}, ["score"])
    with pytest.raises(SamplesError, match=r"'y' holds 17 values a row .*score: 'y\[0\]'"):
        samples(arrays, {"score": "y"}, ["score"])
