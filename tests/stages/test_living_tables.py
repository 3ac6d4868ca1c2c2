"""Tables that live: what is made again is what has changed, shown by what is decoded and what is there.

A medium that is gone proves that nothing decoded it: its row is whole all the same.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import wavfile

from mmray.config import Config, load_config
from mmray.errors import PlanError, TableError
from mmray.stages.extract import extract
from mmray.stages.score import score
from mmray.stages.train import train
from mmray.storage.filesystem import Storage
from mmray.tables.features import require_data
from mmray.tables.read import read

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.ray]

CONFIG = """
output: {folder}/out
samples: {{manifest: {folder}/manifest.jsonl}}
targets: {{mood: {{kind: classification}}}}
features:
  voice: {{kind: mel, n_mels: 4, hop_ms: 40.0, pooling: mean}}
  words: {{kind: tokens}}
extract: {{partition_samples: 8, actors: 1, sandbox: false}}
train: {{epochs: 1, workers: 1, baselines: false}}
"""


class Project:
    """Sounds and texts with a manifest; `rows` are written by `save`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows = [self.row(f"s{n:02d}", n) for n in range(20)]
        self.save()

    def row(self, name: str, n: int) -> dict[str, Any]:
        """A row with its sound."""
        self.sound(f"{name}.wav", 200 + 20 * n)
        split = ("train", "train", "val", "test")[n % 4]
        return {"sample_id": name, "audio": f"{name}.wav", "text": f"word{n} said", "split": split,
                "mood": "ab"[n % 2]}  # fmt: skip

    def sound(self, name: str, hz: float) -> None:
        """A tone of a fifth of a second."""
        tone = np.sin(2 * np.pi * hz * np.arange(3200) / 16_000)
        wavfile.write(self.folder / name, 16_000, tone.astype(np.float32))

    def save(self) -> None:
        """Write the manifest."""
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        (self.folder / "manifest.jsonl").write_text(lines)

    def config(self, *overrides: str) -> Config:
        """The config, changed."""
        path = self.folder / "config.yaml"
        path.write_text(CONFIG.format(folder=self.folder))
        return load_config(path, list(overrides))

    def extract(self, *overrides: str, **options: bool) -> dict[str, int]:
        """Extract; {feature: rows made now}, and all rows there are."""
        summary = extract(self.config(*overrides), **options)  # pyright: ignore[reportArgumentType]
        assert summary["failed_rows"] == 0, summary["failures"]
        made = {name: told["rows_this_run"] for name, told in summary["features"].items()}
        return {**made, "rows": summary["rows"]}

    def forget(self, *names: str) -> None:
        """Remove sounds: whatever decodes them now fails."""
        for name in names:
            (self.folder / f"{name}.wav").unlink()


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path)


def voices(config: Config) -> dict[str, list]:
    table = read(config)
    return dict(zip(table["sample_id"].to_pylist(), table["voice"].to_pylist()))


def test_only_what_is_new_is_made(project):
    assert project.extract() == {"voice": 20, "words": 20, "rows": 20}
    before = voices(project.config())
    project.forget(*(row["sample_id"] for row in project.rows))

    # Two rows more, one gone, one with another sound, one with another text.
    project.rows += [project.row("n0", 3), project.row("n1", 4)]
    gone = project.rows.pop(2)
    project.sound("other.wav", 3000)
    project.rows[8]["audio"] = "other.wav"
    project.rows[9]["text"] = "else"
    changed, said = project.rows[8]["sample_id"], project.rows[9]["sample_id"]
    project.save()
    assert project.extract() == {"voice": 3, "words": 3, "rows": 21}
    table = read(project.config())
    assert set(table["sample_id"].to_pylist()) == {row["sample_id"] for row in project.rows}
    after = voices(project.config())
    different = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    assert different == {changed}
    texts = dict(zip(table["sample_id"].to_pylist(), table["words"].to_pylist()))
    assert texts[said] == ["else"]
    assert texts["n1"] == ["word4", "said"]

    # What was gone comes back: its features are still there, though its sound is not.
    project.rows.insert(0, gone)
    project.save()
    assert project.extract() == {"voice": 0, "words": 0, "rows": 22}
    assert voices(project.config())[gone["sample_id"]] == before[gone["sample_id"]]


def test_labels_and_splits_are_no_part_of_a_feature(project):
    project.extract("targets={}")  # and none is needed
    project.forget(*(row["sample_id"] for row in project.rows))
    for row in project.rows:
        row["mood"] = None if row["sample_id"] == "s05" else row["mood"]
        row["valence"] = 0.5 if row["mood"] == "a" else -0.5
    project.save()
    both = "targets={mood: {kind: classification}, valence: {kind: regression}}"
    for overrides in ((), (both,), ("samples.split.folds=3",)):
        assert project.extract(*overrides) == {"voice": 0, "words": 0, "rows": 20}


def test_a_feature_more_shares_tables_and_one_fetch(project):
    project.extract()
    project.forget(*(row["sample_id"] for row in project.rows if row["sample_id"] != "s00"))
    for row in project.rows:
        row["audio"] = "s00.wav"  # one sound is left
    project.save()
    assert project.extract()["voice"] == 19
    other = ("features.voice.n_mels=3", "features.pitch={kind: mel, n_mels: 2, hop_ms: 40.0}")
    summary = extract(project.config(*other))
    made = {name: told["rows_this_run"] for name, told in summary["features"].items()}
    assert made == {"voice": 20, "words": 0, "pitch": 20}
    # Two features of 20 samples, in three partitions: one fetch a partition.
    assert summary["fetched_bytes"] == 3 * (project.folder / "s00.wav").stat().st_size
    assert project.extract() == {"voice": 0, "words": 0, "rows": 20}, "the other config's tables stand"


def test_training_and_scoring_follow_their_data(project):
    config = project.config()
    project.extract()
    first = train(config)
    assert train(config)["run"] == first["run"]
    scored = score(config)
    assert (scored["rows"], scored["rows_this_run"]) == (20, 20)
    assert score(config)["rows_this_run"] == 0

    # Rows to be scored come and go: the model that the config names is the same.
    extra = [{**project.row("u0", 1), "mood": None}, {**project.row("u1", 2), "split": None, "mood": None}]
    project.rows += extra
    project.save()
    assert project.extract()["voice"] == 2
    assert train(config)["run"] == first["run"]
    scored = score(config)
    assert (scored["rows"], scored["rows_this_run"]) == (22, 2)
    assert read(config)["mood_predicted"].null_count == 0
    del project.rows[-2:]
    project.save()
    assert project.extract()["rows"] == 20
    assert score(config)["rows"] == 20

    project.rows[0]["mood"] = "b"  # a corrected label
    project.save()
    assert project.extract() == {"voice": 0, "words": 0, "rows": 20}
    with pytest.raises(TableError, match=r"no model of these settings.*run `mmray train` first"):
        score(config)
    again = train(config)
    assert again["run"] != first["run"]
    assert score(config)["rows"] == 20
    table = read(config, predictions=again["model_fingerprint"])
    assert table["mood"].to_pylist()[0] == "b"
    assert table["mood_predicted"].null_count == 0
    assert set(table["model"].to_pylist()) == {again["model_fingerprint"]}

    project.rows[0]["mood"] = "a"
    project.save()
    assert train(config)["run"] == first["run"], "the first data again"


def test_a_model_scores_any_samples_straight_from_their_media(project, tmp_path):
    config = project.config()
    project.extract()
    model = train(config)["model"]
    score(config)
    known = read(config)

    # The same sounds and texts, without labels and splits, elsewhere, and one that is not there.
    media = tmp_path / "elsewhere"
    media.mkdir()
    rows = [
        {"sample_id": f"x-{row['sample_id']}", "audio": f"../{row['audio']}", "text": row["text"]}
        for row in project.rows
    ]
    rows.append({"sample_id": "gone", "audio": "gone.wav", "text": None})
    (media / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = {"model": model, "samples": str(media / "new.jsonl"), "output": str(tmp_path / "scored")}
    scored = score(**arguments)
    assert (scored["rows"], scored["unpredicted"]) == (21, 1)
    assert score(**arguments)["rows_this_run"] == 0
    new = read(arguments["output"])
    assert new["sample_id"].to_pylist() == [row["sample_id"] for row in rows]
    assert new["mood_predicted"].to_pylist() == [*known["mood_predicted"].to_pylist(), None]
    before, after = (np.array(table["mood_probabilities"].to_pylist()[:20]) for table in (known, new))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    assert new["prediction_error"].to_pylist()[-1]["reason"] == "absent"
    assert new["voice_error"].to_pylist()[-1]["reason"] == "missing_file"
    assert set(new["mood"].to_pylist()) == {None}


@pytest.mark.parametrize("given", [{}, {"model": "m"}, {"config": "x", "samples": "m.csv"}])
def test_score_takes_a_config_or_a_model_with_samples_and_an_output(given):
    with pytest.raises(PlanError, match="a config, or a model with samples and output"):
        score(**given)


def test_a_corrected_command_is_not_in_the_way_of_a_wrong_one(project, tmp_path):
    wrong = f"features.face={{kind: frames, source: video, weights: {tmp_path}/nowhere.pt}}"
    for row in project.rows:
        row["video"] = None
    project.save()
    with pytest.raises(TableError, match=r"nowhere\.pt"):
        extract(project.config(wrong))
    assert not list(Path(project.config().path("features")).glob("face-*"))
    assert project.extract() == {"voice": 20, "words": 20, "rows": 20}


def test_a_feature_without_a_complete_table_is_named_with_its_command(project):
    config = project.config()
    with pytest.raises(TableError, match=r"no complete table of voice, words.*run `mmray extract` first"):
        train(config)
    project.extract()
    project.rows.append(project.row("new", 1))
    project.save()
    with pytest.raises(TableError, match="no complete table of voice, words"):
        train(config)
    with pytest.raises(TableError, match="no complete table of voice for"):
        require_data(project.config("features.voice.n_mels=9"), Storage(), ["voice"])
