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
from mmray.samples.index import make_index
from mmray.stages.extract import extract, finish
from mmray.storage.filesystem import Storage
from mmray.tables.accounting import Tally, notes_of
from mmray.tables.features import tables_to_make
from mmray.tables.identity import media_digest, media_keys
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
samples: {{manifest: {output}.jsonl}}
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

    The voice tells whether the class is odd, the words whether it is large: 4 classes, 203 rows, of which two
    of the test split have neither.
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


def _write_features(config: Config, rows: int = 203) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, rows)
    voices = [
        None if rng.random() < 0.05 else rng.normal(2 * (label % 2), 1, (rng.integers(1, 9), 4))
        for label in labels
    ]
    words: list = [["large" if label > 1 else "small", f"noise{rng.integers(9)}"] for label in labels]
    for row in (14, 104):
        voices[row] = words[row] = None
    samples = [
        {
            "sample_id": f"s{row:03d}",
            "split": ("train", "train", "train", "val", "test")[row % 5],
            "emotion": f"class{label}",
            "score": float(label),
            "audio": f"{row}.wav",
            "text": " ".join(words[row] or []),
        }
        for row, label in enumerate(labels)
    ]
    manifest = Path(str(config.samples.manifest))
    manifest.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    storage = Storage()
    index, tally = make_index(config, storage), Tally(["voice", "words"])
    tables = tables_to_make(config, ["voice", "words"], "cpu", index.split_digest)
    values = {"voice": (FeatureShape(4), voices), "words": (FeatureShape(None), words)}
    place = {sample["sample_id"]: row for row, sample in enumerate(samples)}
    for partition in index.partitions.tolist():
        part, notes = index.read(storage, partition), {}
        at = [place[name] for name in part["sample_id"].to_pylist()]
        for name, (shape, column) in values.items():
            here = [column[row] for row in at]
            table = feature_rows(name, shape, part, tables[name].source, here)
            digest = media_digest(table["sample_id"], table["media_key"].to_pylist())
            more = {**notes_of(table, name), "media": digest}
            notes[name] = write_partition(storage, tables[name].folder, partition, table, more)
        tally.add_notes(partition, part.num_rows, notes)
    for table in tables.values():
        finish(storage, index, table, tally)


def feature_rows(name: str, shape: FeatureShape, samples: pa.Table, source: str, values: list) -> pa.Table:
    """The rows of a feature's table: these values, an absent modality where there is none."""
    absent = {"stage": "samples", "reason": "absent", "detail": "", "attempts": 1}
    columns = {
        "sample_id": samples["sample_id"],
        "media_key": pa.array(media_keys(samples, [source])),
        name: vectors_to_column(values, shape) if shape.dim else pa.array(values, shape.arrow_type),
        f"{name}_length": [0 if value is None else len(value) for value in values],
        "error": [absent if value is None else None for value in values],
    }
    schema = feature_schema(name, shape)
    given = [columns.get(field.name, [None] * len(values)) for field in schema]
    arrays = [pa.array(each, field.type) if isinstance(each, list) else each
              for each, field in zip(given, schema)]  # fmt: skip
    return pa.table(arrays, schema=schema)
