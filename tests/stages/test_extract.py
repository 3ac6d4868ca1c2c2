"""Extraction on a real Ray: every sample is a row, whatever fails, wherever it runs, however often killed."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmray.config import Config, dump_config
from mmray.errors import BudgetError, ConfigError, PlanError, TableError
from mmray.stages.extract import extract
from mmray.tables.read import read
from mmray.tables.schemas import ragged_from_column

pytestmark = pytest.mark.usefixtures("ray_cluster")


def table_of(config: Config) -> pa.Table:
    return read(config)


def files_of(config: Config) -> dict[str, int]:
    """Path → time of last change, of every feature file."""
    paths = Path(config.path("features")).glob("*/part-*")
    return {str(path): path.stat().st_mtime_ns for path in paths}


def faults_in(row: dict) -> set[tuple[str, str]]:
    errors = {name: row[f"{name}_error"] for name in ("face", "voice", "words")}
    return {(name, error["reason"]) for name, error in errors.items() if error}


def assert_same_rows(one: pa.Table, other: pa.Table) -> None:
    assert one.schema == other.schema
    for name in one.column_names:
        if name in ("face", "voice"):
            for a, b in zip(ragged_from_column(one[name]), ragged_from_column(other[name])):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        else:
            assert one[name].to_pylist() == other[name].to_pylist()


def test_every_sample_is_a_row_and_every_damage_has_its_reason(extracted, clips):
    config, summary = extracted
    table = table_of(config)
    assert table["sample_id"].to_pylist() == list(clips.faults)
    for row in table.to_pylist():
        assert faults_in(row) == clips.faults[row["sample_id"]]
    assert summary["rows"] == len(clips.faults)
    assert summary["failed_rows"] == len(clips.failed)
    assert {(f["feature"], f["reason"]): f["count"] for f in summary["failures"]} == Counter(
        fault for faults in clips.failed.values() for fault in faults
    )


def test_a_failed_modality_is_null_and_never_zeros(extracted):
    config, _ = extracted
    for row in table_of(config).to_pylist():
        failed = {name for name, _ in faults_in(row)}
        for name in config.features:
            assert (row[name] is None) == (name in failed)


@pytest.mark.parametrize(
    "overrides",
    [
        ["extract.actors=1"],
        ["extract.actors=3", "extract.encode_batch=3"],
        ["extract.placement=split", "extract.actors=2", "extract.encoders=2"],
    ],
    ids=["one actor", "three actors, small batches", "two pools"],
)
def test_where_it_runs_never_changes_what_comes_out(extracted, clip_project, overrides):
    usual, _ = extracted
    other = clip_project(*overrides)
    summary = extract(other)
    assert summary["placement"] == ("split" if "extract.placement=split" in overrides else "fused")
    assert_same_rows(table_of(usual), table_of(other))


def test_a_finished_table_is_left_alone_and_ray_is_not_even_imported(extracted, tmp_path):
    config, _ = extracted
    before = files_of(config)
    path = tmp_path / "again.yaml"
    path.write_text(dump_config(config))
    code = (
        "import sys; from mmray.config import load_config; from mmray.stages.extract import extract;"
        f"summary = extract(load_config({str(path)!r}));"
        "assert summary['rows_this_run'] == 0, summary; assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert files_of(config) == before


def test_features_of_two_settings_never_mix_and_the_others_are_shared(extracted, clip_project):
    config, summary = extracted
    before = files_of(config)
    other = clip_project("features.voice.n_mels=16", f"output={config.output}")
    made = {name: told["rows_this_run"] for name, told in extract(other)["features"].items()}
    assert made == {"face": 0, "voice": summary["rows"], "words": 0}
    after = files_of(config)
    assert before.items() <= after.items()
    assert all("/voice-" in path for path in after.keys() - before.keys())
    assert read(other)["voice"].type.value_type.list_size == 16
    assert read(config)["voice"].type.value_type.list_size == 8


def test_too_many_failures_stop_the_job_and_keep_what_is_done(clip_project, clips):
    strict = clip_project("extract.max_failed_fraction=0.0")
    with pytest.raises(BudgetError, match=r"samples failed, more than extract\.max_failed_fraction = 0"):
        extract(strict)
    assert files_of(strict)
    written = files_of(strict)
    summary = extract(clip_project())
    assert written.items() <= files_of(strict).items()
    assert summary["rows"] == len(clips.faults)


def test_faults_in_an_actor_arrive_as_they_are(clip_project, tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"no weights")
    with pytest.raises(TableError, match=r"weights.pt"):
        extract(clip_project(f"features.face.weights={tmp_path}/weights.pt"))
    with pytest.raises((ConfigError, TableError), match="resnet18"):
        extract(clip_project("features.face.encoder=resnet81"))


def test_a_demand_that_cannot_be_met_is_refused(clip_project):
    with pytest.raises(PlanError, match="needs 9 CPU"):
        extract(clip_project("extract.actors=9"))
