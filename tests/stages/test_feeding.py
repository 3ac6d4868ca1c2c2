"""A feature table over its budget is mapped from a disk, and trains as one in memory does."""

import numpy as np
import pytest

from mmray.distributed.feeding import load_features, open_table, table_bytes
from mmray.stages.train import train
from mmray.storage.filesystem import Storage
from mmray.training import spilling


def test_the_size_is_what_is_held_and_a_mapped_table_is_the_one_in_memory(
    table_project, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config = table_project()
    whole = load_features(config, Storage(), ["voice", "words"])
    voice, words = whole.features["voice"], whole.features["words"]
    size = voice.values.nbytes + 80 * len(words.values) + 4 * (len(voice.values) + len(words.values))
    assert table_bytes(config, Storage()) == size
    mapped = open_table(config, Storage(), ["voice", "words"], mapped=True)
    assert mapped.sample_ids.tolist() == whole.sample_ids.tolist()
    assert isinstance(mapped.features["voice"].values, np.memmap)
    for name, feature in whole.features.items():
        np.testing.assert_array_equal(mapped.features[name].values, feature.values)
        np.testing.assert_array_equal(mapped.features[name].offsets, feature.offsets)
        np.testing.assert_array_equal(mapped.features[name].times(), feature.times())
    spilling._held.cache_clear()


@pytest.mark.usefixtures("ray_cluster")
def test_mapped_training_by_two_is_that_of_one_in_memory(table_project):
    one = train(table_project("train.epochs=3", "train.workers=1", name="one"))
    over = "train.memory_budget_mb=0.02"
    two = train(table_project(over, "train.epochs=3", "train.workers=2", "train.min_workers=1", name="two"))
    assert [one["workers"], two["workers"]] == [1, 2]
    assert [one["mapped"], two["mapped"]] == [False, True]
    assert one["splits"] == two["splits"]
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-3)
    assert one["history"][-1]["train_loss"] < 0.8 * one["history"][0]["train_loss"]
