"""The command line as a user meets it: real processes, exit codes, what is printed, what is left behind."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]

HEAVY = {"ray", "torch", "torchvision", "transformers", "pandas", "pyarrow", "av", "matplotlib"}

CONFIG = """
output: {folder}/out
samples: {{manifest: {folder}/manifest.jsonl}}
targets: {{mood: {{kind: classification}}}}
features: {{words: {{kind: tokens}}}}
"""

GOOD = [
    {"sample_id": f"{split}{n}", "text": "so it goes", "mood": mood, "split": split}
    for n, mood in enumerate(("glad", "sad"))
    for split in ("train", "val", "test")
]


def mmray(*arguments: object, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, *python, "-m", "mmray", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )


def project(folder: Path, rows: list[dict], config: str = CONFIG) -> Path:
    """A config and its manifest in `folder`."""
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "mmray.yaml"
    path.write_text(config.format(folder=folder))
    return path


def imported(done: subprocess.CompletedProcess[str]) -> set[str]:
    """Top-level packages a run with `-X importtime` imported."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_help_init_and_a_config_fault_import_nothing_heavy(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("outptu: x\n")
    timed = ("-X", "importtime")
    for arguments, code in ((["--help"], 0), (["init", tmp_path], 0), (["train", bad], 1)):
        done = mmray(*arguments, python=timed)
        assert done.returncode == code, done.stderr[-500:]
        assert "click" in imported(done)
        assert not imported(done) & HEAVY, arguments


def test_init_writes_a_config_that_check_understands_and_never_overwrites_one(tmp_path):
    assert mmray("init", tmp_path).returncode == 0
    written = (tmp_path / "mmray.yaml").read_bytes()
    again = mmray("init", tmp_path)
    assert again.returncode == 1
    assert "already there" in again.stderr
    assert (tmp_path / "mmray.yaml").read_bytes() == written
    # Only the manifest is missing, which is the user's to bring.
    checked = mmray("check", tmp_path / "mmray.yaml", f"output={tmp_path}/out")
    assert checked.returncode == 1
    assert "data/manifest.jsonl: no such manifest" in checked.stderr


def test_every_fault_of_a_config_comes_at_once_with_a_suggestion(tmp_path):
    path = project(tmp_path, GOOD)
    done = mmray("run", path, "train.epoch=3", "train.batch_size=many", "model.fusion.kind=concta")
    assert done.returncode == 1
    for said in (
        "3 faults",
        "train.epoch ",
        "did you mean 'epochs'",
        "train.batch_size",
        "did you mean 'concat'",
    ):
        assert said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([*GOOD, GOOD[0]], "train0"),
        ([{**row, "sample_id": None} for row in GOOD[:1]] + GOOD[1:], "line 1"),
        ([{"id": row["sample_id"], "mood": row["mood"]} for row in GOOD], "no column 'sample_id'"),
        ([{k: v for k, v in row.items() if k != "text"} for row in GOOD], "no column 'text'"),
        (
            [{k: v for k, v in row.items() if k != "mood"} for row in GOOD],
            "target mood: no sample of the train split has a label",
        ),
        ([row for row in GOOD if row["split"] != "val"], "the val split has no samples"),
        ([*GOOD, {**GOOD[0], "sample_id": "new", "mood": "odd", "split": "test"}], "'odd' not among"),
        ([], "no rows"),
    ],
    ids=["duplicate", "no-id", "no-id-column", "no-source", "no-target", "empty-split", "new-label", "empty"],
)
def test_a_bad_manifest_is_one_clear_message_before_any_work(tmp_path, rows, said):
    done = mmray("check", project(tmp_path, rows))
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists(), "looking leaves nothing behind"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("samples.manifest={folder}/nowhere.jsonl", "nowhere.jsonl: no such manifest"),
        ("samples.manifest=ftp://host/x.jsonl", "unknown scheme 'ftp'"),
        ("output=/proc/mmray", "/proc"),
    ],
)
def test_a_path_that_cannot_be_used_is_named(tmp_path, override, said):
    done = mmray("check", project(tmp_path, GOOD), override.format(folder=tmp_path))
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_usage_is_exit_code_2(tmp_path):
    assert mmray("fly").returncode == 2
    assert mmray("train").returncode == 2
    assert mmray("train", project(tmp_path, GOOD), "--no-such-option").returncode == 2


def test_a_good_project_is_checked_and_inspected(tmp_path):
    done = mmray("check", project(tmp_path, GOOD), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["samples"], found["splits"]) == (6, {"train": 2, "val": 2, "test": 2})
    assert found["tried"]["train0"]["words"] == {"steps": 3, "dim": None}
    nothing = mmray("inspect", tmp_path / "out")
    assert nothing.returncode == 1
    assert "Traceback" not in nothing.stderr


def test_output_that_cannot_be_written_is_no_success():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mmray", "check", "--reference"],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
    assert done.returncode != 0


@pytest.mark.s3
@pytest.mark.endurance
def test_exit_codes_hold_whatever_native_threads_do_at_the_end(tmp_path, s3):
    np.savez(tmp_path / "x.npz", id=np.array(["a", "b"]), x=np.zeros((2, 3), np.float32))
    (tmp_path / "m.csv").write_text("sample_id,mood,split\na,glad,train\nc,sad,val\n")
    features = f"{{x: {{kind: imported, path: {tmp_path}/x.npz, array: nope}}}}"
    config = project(tmp_path, GOOD)
    overrides = [f"features={features}", f"samples.manifest={tmp_path}/m.csv"]
    for attempt in range(30):
        local = attempt % 2 == 0
        output = [] if local else [f"output=s3://{s3.bucket}/exit"]
        done = mmray("import-features", config, *overrides, *output)
        assert (done.returncode, "no array 'nope'" in done.stderr) == (1, True), (attempt, done.stderr)
