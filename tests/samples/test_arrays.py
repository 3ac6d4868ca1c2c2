"""Files of arrays against what numpy wrote into them."""

import pickle

import numpy as np
import pytest

from mmray.errors import SamplesError
from mmray.samples.arrays import read_arrays
from mmray.storage.filesystem import Storage

ROWS = {"train": 5, "valid": 3, "test": 2}


def arrays(rows: int, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "id": np.array([f"v{seed}$_${row}" for row in range(rows)]),
        "text": rng.normal(size=(rows, 4, 3)).astype(np.float32),
        "score": rng.normal(size=rows),
    }


PARTS = {split: arrays(rows, seed) for seed, (split, rows) in enumerate(ROWS.items())}
SPLITS = ["train"] * 5 + ["val"] * 3 + ["test"] * 2


def require_the_originals(columns: dict) -> None:
    for name in ("id", "text", "score"):
        original = np.concatenate([part[name] for part in PARTS.values()])
        np.testing.assert_array_equal(np.array(list(columns[name])), original)
    assert list(columns["split"]) == SPLITS


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_splits_is_the_arrays_it_was_made_of(tmp_path, protocol):
    path = tmp_path / "set.pkl"
    whole = {split: {**part, "audio_lengths": [4] * ROWS[split]} for split, part in PARTS.items()}
    path.write_bytes(pickle.dumps(whole, protocol=protocol))
    columns = read_arrays(str(path), Storage()).columns
    require_the_originals(columns)
    assert columns["audio_lengths"] == [4] * 10


def test_npz_and_hdf5_hold_splits_as_groups_or_as_a_column(tmp_path):
    h5py = pytest.importorskip("h5py")
    grouped: dict = {f"{split}/{name}": x for split, part in PARTS.items() for name, x in part.items()}
    flat: dict = {name: np.concatenate([part[name] for part in PARTS.values()]) for name in PARTS["train"]}
    np.savez(tmp_path / "grouped.npz", allow_pickle=False, **grouped)
    np.savez(tmp_path / "flat.npz", **flat, split=np.array(SPLITS))
    with h5py.File(tmp_path / "grouped.h5", "w") as file:
        for name, array in grouped.items():
            file[name] = array.astype(object) if array.dtype.kind == "U" else array
    for name in ("grouped.npz", "flat.npz", "grouped.h5"):
        require_the_originals(read_arrays(str(tmp_path / name), Storage()).columns)


def test_an_npz_with_objects_is_refused(tmp_path):
    np.savez(tmp_path / "objects.npz", text=np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    with pytest.raises(SamplesError, match="plain numbers or texts"):
        read_arrays(str(tmp_path / "objects.npz"), Storage())


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("cut.pkl", pickle.dumps(PARTS)[:-200], "pickle"),
        ("text.pkl", b"hello", "pickle"),
        ("list.pkl", pickle.dumps([1, 2]), "expected"),
        ("uneven.pkl", pickle.dumps({"a": [1, 2], "b": [1]}), r"different numbers of rows \(a 2, b 1\)"),
        ("text.npz", b"hello", "npz"),
        ("text.h5", b"hello", "HDF5"),
        ("text.mat", b"hello", "are read from"),
    ],
)
def test_files_that_are_none_of_these_are_told(tmp_path, name, content, told):
    if name.endswith("h5"):
        pytest.importorskip("h5py")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SamplesError, match=told):
        read_arrays(str(tmp_path / name), Storage())
