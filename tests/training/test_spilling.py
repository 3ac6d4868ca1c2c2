"""A table that is mapped from a disk trains as one in memory does, and one copy of it serves a machine."""

import multiprocessing
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mmray.config import ModelConfig, TrainConfig
from mmray.errors import StorageError
from mmray.storage.scratch import _sweep, shared_scratch
from mmray.training import spilling
from mmray.training.batches import FeatureSet
from mmray.training.loop import fit

FEATURES = ["audio", "video", "words"]
MODEL = ModelConfig.model_validate({"encoders": {"audio": {"kind": "gru", "dropout": 0.0}}})


@pytest.fixture
def table(make_table, targets, tmp_path, monkeypatch) -> Iterator[FeatureSet]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield FeatureSet.load(make_table(150, seed=5, missing=0.3), FEATURES, targets)
    spilling._held.cache_clear()


def mapped(data: FeatureSet, key: str = "a", reads: Counter | None = None) -> FeatureSet:
    """The same, written in parts of 40 rows; `reads` counts them."""

    def read():
        for start in range(0, len(data), 40):
            if reads is not None:
                reads[start] += 1
            yield data.subset(np.arange(start, min(start + 40, len(data))))

    return spilling.spilled(key, data.subset(np.arange(len(data))), FEATURES, 1000, read)


def test_it_is_the_same_table_and_the_same_training(table):
    found = mapped(table)
    for name in FEATURES:
        np.testing.assert_array_equal(found.features[name].values, table.features[name].values)
        np.testing.assert_array_equal(found.features[name].times(), table.features[name].times())
        np.testing.assert_array_equal(found.features[name].offsets, table.features[name].offsets)
    assert isinstance(found.features["audio"].values, np.memmap)
    settings = TrainConfig(epochs=3, batch_size=16)
    kinds = targets_of(table)
    a, b = (fit(MODEL, settings, data, FEATURES, kinds) for data in (table, found))
    assert [{**epoch, "seconds": 0} for epoch in a.history] == [
        {**epoch, "seconds": 0} for epoch in b.history
    ]
    for name, weights in a.snapshot.weights.items():
        torch.testing.assert_close(weights, b.snapshot.weights[name], rtol=0, atol=0)


def targets_of(data: FeatureSet) -> dict:
    from mmray.targets import ClassificationTarget, RegressionTarget

    kinds = {"f": RegressionTarget(kind="regression"), "O": ClassificationTarget(kind="classification")}
    return {name: kinds[values.dtype.kind] for name, values in data.targets.items()}


def _in_another_process(data: FeatureSet, told) -> None:
    reads: Counter = Counter()
    mapped(data, reads=reads)
    told.put(sum(reads.values()))


def test_one_copy_serves_all_processes_of_a_machine_and_goes_with_the_last(table):
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    others = [context.Process(target=_in_another_process, args=(table, told)) for _ in range(3)]
    for other in others:  # at once: one writes, the others wait for it
        other.start()
    assert sorted(told.get(timeout=60) for _ in others) == [0, 0, 4]
    reads: Counter = Counter()
    mapped(table, reads=reads)
    assert not reads
    for other in others:
        other.join()
    folder = Path(shared_scratch("a"))
    assert folder.exists()
    _sweep(str(folder.parent))
    assert folder.exists(), "this process still reads it"
    _, lock = spilling._held("a")
    spilling._held.cache_clear()
    lock.close()
    _sweep(str(folder.parent))
    assert not folder.exists()


def test_a_copy_that_was_cut_is_made_again(table):
    mapped(table)
    (Path(shared_scratch("a")) / "table.json").unlink()
    (Path(shared_scratch("a")) / "audio.values").write_bytes(b"cut")
    found = mapped(table)
    np.testing.assert_array_equal(found.features["audio"].values, table.features["audio"].values)


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(table, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(StorageError, match=r"TMPDIR"):
        mapped(table)
    assert not list(Path(shared_scratch("a")).glob("*.values"))
