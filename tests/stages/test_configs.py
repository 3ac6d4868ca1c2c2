"""The configs that ship: all are sound, and their scripts make what they read."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from mmray.config import load_config
from mmray.stages.run import run_stages

CONFIGS = Path(__file__).parents[2] / "configs"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_config_that_ships_has_no_faults(path):
    load_config(path)


def test_the_textbook_example_runs_on_texts_pictures_and_sounds(ray_cluster, tmp_path):
    command = [sys.executable, str(CONFIGS / "sentiment_samples.py"), str(tmp_path), "--samples", "48"]
    subprocess.run(command, check=True, capture_output=True)
    config = load_config(
        CONFIGS / "sentiment.yaml",
        [f"output={tmp_path}/out", f"samples.manifest={tmp_path}/manifest.jsonl", "train.epochs=3",
         "train.baselines=false"],
    )  # fmt: skip
    stages = dict(run_stages(config))
    assert (stages["extract"]["rows"], stages["extract"]["failed_rows"]) == (48, 0)
    assert stages["score"]["rows"] == 48
    assert [row["model"] for row in stages["train"]["rows"]] == ["majority", "fused"]


def test_mosi_holds_whole_train_videos_out(shared_data):
    columns, texts = script("mosi_features").read(shared_data / "mosi")
    assert {name: len(values) for name, values in columns.items()} == dict.fromkeys(columns, 2199)
    split = dict(zip(*np.unique(columns["split"], return_counts=True), strict=True))
    assert (split["test"], split["train"] + split["val"]) == (752, 1447)
    videos = pd.Series(columns["id"]).str.rpartition("_")[0].groupby(columns["split"]).unique()
    assert {name: len(names) for name, names in videos.items()} == {"test": 31, "train": 49, "val": 13}
    assert not set(videos["val"]) & set(videos["train"])
    # The transcripts' own labels, which the script does not read, are those of the feature files.
    told = pd.read_csv(shared_data / "mosi" / "transcripts.csv", header=None, index_col=0)
    assert (told.loc[columns["id"], 3].to_numpy() == (columns["sentiment"] == "positive")).all()
    assert texts == told[1][columns["id"]].tolist()


def test_spoken_and_written_digits_are_paired_by_label_and_no_picture_is_in_two_splits(shared_data, tmp_path):
    (tmp_path / "media").mkdir()
    rows = list(
        script("avmnist_pairs").rows(
            shared_data / "fsdd" / "fsdd_recordings.tar.gz",
            shared_data / "mnist10k.npz",
            tmp_path / "media",
            12,
        )
    )
    assert pd.Series([row["split"] for row in rows]).value_counts().to_dict() == {
        "test": 300,
        "val": 300,
        "train": 120,
    }
    digits = np.load(shared_data / "mnist10k.npz")
    labels = {x.tobytes(): str(y) for x, y in zip(digits["x"], digits["y"], strict=True)}
    from PIL import Image

    pictures = [np.asarray(Image.open(tmp_path / row["image"])).tobytes() for row in rows]
    assert len(set(pictures)) == len(rows)
    assert [labels[picture] for picture in pictures] == [row["digit"] for row in rows]
    assert all((tmp_path / row["audio"]).stat().st_size > 44 for row in rows)
    assert {int(r["sample_id"].split("_")[2]) for r in rows if r["split"] == "test"} == set(range(5))


@pytest.mark.parametrize("target", ["digit", "letter"])
def test_grid_rows_are_the_segment_of_the_word_that_the_name_tells(shared_data, target):
    rows = list(script("grid_manifest").rows(shared_data / "grid", target=target))
    names = {"z": "zero"} | {str(i + 1): n for i, n in enumerate(
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])}  # fmt: skip
    for row in rows:
        letter, digit = row["sample_id"][3], names[row["sample_id"][4]]
        assert row[target] == {"letter": letter, "digit": digit}[target]
        assert 0 < row["start_s"] < row["end_s"] < 3
    assert json.dumps(rows[0])
    assert len({row["sample_id"] for row in rows}) == len(rows) == 200
