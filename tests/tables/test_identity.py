"""Feature tables of other settings, weights, decoders or libraries have other fingerprints, by name."""

import importlib.metadata
import importlib.util
from pathlib import Path

import pytest
import torch

from mmray.config import Config, load_config
from mmray.errors import TableError
from mmray.tables.identity import LIBRARIES, feature_spec, hash_of, require_same

DECODERS = ("av", "pillow", "decord")

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


def refusal(made_with: dict, here: dict) -> str:
    with pytest.raises(TableError) as caught:
        require_same("table", made_with, here, "do this")
    assert hash_of(made_with) != hash_of(here)
    return str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("decord") is None, reason="decord has no wheel for this machine")
@pytest.mark.parametrize("package", [*DECODERS, *LIBRARIES])
def test_another_version_of_what_decodes_or_computes_is_named(project, monkeypatch, package):
    with_decord = "extract.decoder=decord"
    before, version = feature_spec(project(with_decord)), importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.0.1" if name == package else version(name)
    )
    section = "decoders" if package in DECODERS else "libraries"
    told = refusal(before, feature_spec(project(with_decord)))
    assert feature_spec(project(with_decord), before) == before, "a finished table is taken as it is"
    assert f'{section}.{package}: "{version(package)}" → "0.0.1"' in told
    assert told.count("→") == 1


def test_other_weights_under_the_same_name_are_named(project, tmp_path: Path):
    path = tmp_path / "weights.pt"

    def spec(value: float) -> dict:
        torch.save({"w": torch.tensor([value])}, path)
        return feature_spec(project(f"features.face.weights={path}"))

    assert spec(1.0) == spec(1.0)
    assert "features.face.weights" in refusal(spec(1.0), spec(2.0))


def test_where_and_how_fast_it_runs_is_no_part_of_it(project):
    def spec(*overrides: str) -> str:
        config: Config = project(*overrides)
        return hash_of(feature_spec(config))

    usual = spec()
    assert spec("output=elsewhere", "extract.actors=3", "extract.partition_samples=5") == usual
    assert spec("extract.placement=split", "extract.encode_batch=7") == usual
    assert spec("features.face.frames=3") != usual
