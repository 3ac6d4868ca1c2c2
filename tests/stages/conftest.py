"""Small projects for the stages: real clips to extract from, and a feature table to learn from."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmray.assets.clips import write_clips
from mmray.config import Config, load_config
from mmray.stages.extract import extract
from mmray.storage.filesystem import Storage
from mmray.tables.identity import feature_spec, hash_of
from mmray.tables.parts import write_partition
from mmray.tables.schemas import FeatureShape, feature_schema, vectors_to_column

CLIP_CONFIG = """
output: {output}
samples: {{manifest: {data}/manifest.jsonl}}
targets: {{emotion: {{kind: classification}}}}
features:
  face: {{kind: frames, frames: 2, size: 32}}
  voice: {{kind: mel, n_mels: 8, hop_ms: 40.0}}
  words: {{kind: tokens}}
extract: {{partition_samples: 8}}
train: {{epochs: 2, baselines: false}}
"""

TABLE_CONFIG = """
output: {output}
samples: {{manifest: none.jsonl}}
targets: {{emotion: {{kind: classification}}, score: {{kind: regression}}}}
features: {{voice: {{kind: mel, n_mels: 4}}, words: {{kind: tokens}}}}
model:
  encoders: {{voice: {{kind: gru, hidden: 16, dropout: 0.0}}, words: {{kind: mlp, hidden: 16, dropout: 0.0}}}}
  fusion: {{kind: concat, hidden: 16, dropout: 0.0}}
train: {{epochs: 4, learning_rate: 1e-2, batch_size: 16, baselines: false}}
"""

Project = Callable[..., Config]


@dataclass(frozen=True)
class Clips:
    """A folder of media with its manifest; for each sample, in order, what is wrong with it."""

    folder: Path
    faults: dict[str, set[tuple[str, str]]]
    """sample_id → {(feature, reason)}; empty for a whole one."""

    @property
    def failed(self) -> dict[str, set[tuple[str, str]]]:
        """Those with a fault that counts as a failure."""
        failed = {name: {f for f in faults if f[1] != "absent"} for name, faults in self.faults.items()}
        return {name: faults for name, faults in failed.items() if faults}


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Clips:
    """Generated clips, and after them one of each kind of damage."""
    folder = tmp_path_factory.mktemp("clips")
    rows = [row for row in write_clips(str(folder), clips=40) if not row["damage"]]
    faults: dict[str, set[tuple[str, str]]] = {row.pop("sample_id"): set() for row in map(dict, rows)}
    media = folder / "clips"
    whole = (folder / rows[0]["video"]).read_bytes()
    (media / "zero.mp4").write_bytes(b"")
    (media / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (media / "random.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
    both = ("face", "voice")
    damaged = {
        "zero": ({"video": "clips/zero.mp4"}, {(name, "unreadable") for name in both}),
        "cut": ({"video": "clips/cut.mp4"}, {(name, "unreadable") for name in both}),
        "random": ({"video": "clips/random.mp4"}, {(name, "unreadable") for name in both}),
        "gone": ({"video": "clips/gone.mp4"}, {(name, "missing_file") for name in both}),
        "text_only": ({"video": None}, {(name, "absent") for name in both}),
        "blank": ({"text": "  "}, {("words", "empty")}),
    }
    for name, (change, expected) in damaged.items():
        rows.append({**rows[0], "sample_id": name, **change})
        faults[name] = expected
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Clips(folder, faults)


@pytest.fixture
def clip_project(clips, tmp_path) -> Project:
    """`clip_project("section.key=value", …)`: a config on the clips, its output in this test's folder."""

    def project(*overrides: str) -> Config:
        path = tmp_path / "config.yaml"
        path.write_text(CLIP_CONFIG.format(output=tmp_path / "out", data=clips.folder))
        return load_config(path, overrides)

    return project


@pytest.fixture(scope="session")
def extracted(clips, ray_cluster, tmp_path_factory) -> tuple[Config, dict]:
    """The clips' config with its feature table made, and the summary; tests only read it."""
    folder = tmp_path_factory.mktemp("extracted")
    path = folder / "config.yaml"
    path.write_text(CLIP_CONFIG.format(output=folder / "out", data=clips.folder))
    config = load_config(path)
    return config, extract(config)


@pytest.fixture
def table_project(tmp_path) -> Project:
    """`table_project("section.key=value", …, name="out")`: a config and its finished feature table.

    The voice tells whether the class is odd, the words whether it is large: 4 classes, 203 rows.
    """

    def project(*overrides: str, name: str = "out") -> Config:
        return _make_table_project(tmp_path, overrides, name)

    return project


@pytest.fixture(scope="module")
def shared_table_project(tmp_path_factory) -> Project:
    """The same for what several tests of a module look at."""

    def project(*overrides: str, name: str = "out") -> Config:
        return _make_table_project(tmp_path_factory.mktemp("table"), overrides, name)

    return project


def _make_table_project(folder: Path, overrides: Sequence[str], name: str) -> Config:
    path = folder / f"{name}.yaml"
    path.write_text(TABLE_CONFIG.format(output=folder / name))
    config = load_config(path, overrides)
    _write_features(config)
    return config


def _write_features(config: Config, sizes: tuple[int, ...] = (64, 64, 64, 11)) -> None:
    rng = np.random.default_rng(0)
    storage, folder = Storage(), config.path("features")
    shapes = {"voice": FeatureShape(4), "words": FeatureShape(None)}
    schema = feature_schema(shapes, config.targets)
    for partition, rows in enumerate(sizes):
        labels = rng.integers(0, 4, rows)
        voices = [
            None if rng.random() < 0.05 else rng.normal(2 * (label % 2), 1, (rng.integers(1, 9), 4))
            for label in labels
        ]
        columns = {
            "sample_id": [f"{partition}-{row}" for row in range(rows)],
            "split": [("train", "train", "train", "val", "test")[row % 5] for row in range(rows)],
            "emotion": [f"class{label}" for label in labels],
            "score": labels.astype(float).tolist(),
            "voice": vectors_to_column(voices, shapes["voice"]),
            "voice_length": [0 if voice is None else len(voice) for voice in voices],
            "words": [["large" if label > 1 else "small", f"noise{rng.integers(9)}"] for label in labels],
            "words_length": [2] * rows,
            "errors": [[] for _ in range(rows)],
        }
        arrays = [
            column if isinstance(column, pa.Array) else pa.array(column, field.type)
            for field in schema
            for column in [columns.get(field.name, [None] * rows)]
        ]
        write_partition(storage, folder, partition, pa.table(arrays, schema=schema))
    spec = feature_spec(config)
    storage.write_json(f"{folder}/_spec.json", {**spec, "fingerprint": hash_of(spec)})
    storage.write_json(f"{folder}/_summary.json", {"rows": sum(sizes)})
