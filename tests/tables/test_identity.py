"""Feature tables of other settings, weights, decoders or libraries have other fingerprints, by name."""

import importlib.metadata
import importlib.util
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from mmray.config import Config, load_config
from mmray.errors import TableError
from mmray.tables.features import tables_to_make
from mmray.tables.identity import hash_of, media_keys, require_same, run_name

DECODERS = ("av", "pillow", "decord")

SAMPLES = pa.schema(
    [(name, pa.string()) for name in ("sample_id", "video", "audio", "text")]
    + [(name, pa.float64()) for name in ("start_s", "end_s")]
)

CONFIG = """
output: out
samples: {manifest: m.jsonl}
targets: {emotion: {kind: classification}}
features: {face: {kind: frames, frames: 2}, voice: {kind: mel}}
"""


@pytest.fixture
def project(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return lambda *overrides: load_config(path, list(overrides))


def spec_of(config: Config, name: str = "face", device: str = "cpu") -> dict:
    return tables_to_make(config, [name], device, "")[name].spec


def refusal(made_with: dict, here: dict) -> str:
    with pytest.raises(TableError) as caught:
        require_same("table", made_with, here, "do this")
    assert hash_of(made_with) != hash_of(here)
    return str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("decord") is None, reason="decord has no wheel for this machine")
@pytest.mark.parametrize("package", [*DECODERS, "torch", "torchvision"])
def test_another_version_of_what_decodes_or_computes_is_named(project, monkeypatch, package):
    with_decord = "extract.decoder=decord"
    before, version = spec_of(project(with_decord)), importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.0.1" if name == package else version(name)
    )
    section = "environment.decoders" if package in DECODERS else "environment.libraries"
    told = refusal(before, spec_of(project(with_decord)))
    assert f'{section}.{package}: "{version(package)}" → "0.0.1"' in told
    assert told.count("→") == 1


def test_the_device_class_counts_for_networks_alone(project):
    config = project()
    assert "environment.device" in refusal(spec_of(config), spec_of(config, device="cuda"))
    assert spec_of(config, "voice") == spec_of(config, "voice", device="cuda")


def test_other_weights_under_the_same_name_are_named(project, tmp_path: Path):
    path = tmp_path / "weights.pt"

    def spec(value: float) -> dict:
        torch.save({"w": torch.tensor([value])}, path)
        return spec_of(project(f"features.face.weights={path}"))

    assert spec(1.0) == spec(1.0)
    assert "settings.weights" in refusal(spec(1.0), spec(2.0))


def test_the_source_of_an_own_encoder_counts(project, tmp_path: Path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "own_encoder_of_mine.py"

    def spec(code: str) -> dict:
        module.write_text(code)
        return spec_of(project("features.face.encoder='own_encoder_of_mine:build'"))

    before = spec("def build(): return 1\n")
    assert spec("def build(): return 1\n") == before
    assert "code.source" in refusal(before, spec("def build(): return 2\n"))


def test_a_feature_knows_neither_its_name_nor_other_features_nor_labels(project):
    usual = spec_of(project())
    assert spec_of(project("features.voice.n_mels=5", "targets={}")) == usual
    renamed = project("features={other: {kind: frames, frames: 2}}")
    assert spec_of(renamed, "other") == usual


def test_where_and_how_fast_it_runs_is_no_part_of_it(project):
    def spec(*overrides: str) -> str:
        return hash_of(spec_of(project(*overrides)))

    usual = spec()
    assert spec("output=elsewhere", "extract.actors=3", "extract.partition_samples=5") == usual
    assert spec("extract.placement=split", "extract.encode_batch=7") == usual
    assert spec("features.face.frames=3") != usual


def test_a_media_key_covers_what_its_feature_reads_and_nothing_else():
    row = {"sample_id": "a", "start_s": 0.0, "end_s": 2.0, "video": "v", "audio": None, "text": "t"}

    def key(source: str, **changes) -> str:
        return media_keys(pa.Table.from_pylist([{**row, **changes}], schema=SAMPLES), [source])[0]

    for source, changes in {
        "video": {"video": "w", "start_s": 1.0, "end_s": None},
        "audio": {"video": "w", "audio": "a", "start_s": 1.0},
        "text": {"text": "u"},
    }.items():
        for column, value in changes.items():
            assert key(source, **{column: value}) != key(source)
        others = {"sample_id": "b", "video": "w", "audio": "a", "text": "u", "start_s": 1.0, "end_s": None}
        reads = {"video": ["video", "start_s", "end_s"], "text": ["text"]}
        for column in others.keys() - set(reads.get(source, others)):
            assert key(source, **{column: others[column]}) == key(source)
    assert key("audio", audio="a", video="w") == key("audio", audio="a"), "the video is not listened to"


def test_a_run_is_named_by_what_decides_it(project):
    usual = run_name(project(), "data")
    assert run_name(project("train.workers=3", "train.max_restarts=9", "output=elsewhere"), "data") == usual
    assert run_name(project(), "other data") != usual
    assert run_name(project(), "data", "a model") != usual
    for change in ("train.epochs=3", "train.seed=1", "model.fusion={kind: late}"):
        assert run_name(project(change), "data") != usual
