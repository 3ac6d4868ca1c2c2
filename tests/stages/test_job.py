"""What goes along with a job, and what it looks at before anything of mmray's is imported."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmray.config import load_config
from mmray.errors import PlanError
from mmray.stages.job import ENVIRONMENT, NEEDS, lacking
from mmray.stages.submit import environment_file, submit


def test_what_is_lacking_is_named_with_the_version_that_is_there():
    ray = importlib.metadata.version("ray")
    told = lacking(["ray[data]==1.*", "no-such-thing>=2", f"ray=={ray}", "decord; sys_platform == 'none'"])
    assert told == [f"ray ({ray} is no ==1.*)", "no-such-thing"]
    assert lacking(importlib.metadata.requires("mmray") or []) == []


def job(folder: Path, needs: list[str]) -> subprocess.CompletedProcess[str]:
    (folder / NEEDS).write_text(json.dumps(needs))
    code = "import os; from mmray.stages.job import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "status", "nowhere.yaml"], cwd=folder, capture_output=True, text=True
    )


def test_a_cluster_that_lacks_packages_is_told_in_one_line_before_the_stage(tmp_path):
    done = job(tmp_path, ["torch==1.0", "no-such-thing"])
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: the cluster's python ({sys.executable} on ")
    assert "torch (2" in line
    assert "no-such-thing" in line
    assert "cluster/constraints.txt" in line
    whole = job(tmp_path, ["ray"])
    assert "nowhere.yaml" in whole.stderr, "then the stage runs"


def test_the_job_needs_nothing_itself():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['click', 'yaml', 'ray', 'rich', 'pydantic']))\n"
        "import mmray.stages.job; mmray.stages.job.take_environment()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_variables_sent_along_are_set(tmp_path):
    (tmp_path / ENVIRONMENT).write_text(json.dumps({"MMRAY_TEST_KEY": "abc"}))
    code = "import os; from mmray.stages.job import take_environment; take_environment()\n"
    code += "print(os.environ['MMRAY_TEST_KEY'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "abc\n"


def test_a_file_of_variables(tmp_path):
    file = tmp_path / "keys.env"
    file.write_text("# a comment\n\nexport A=1\nB = 'two words' \nC=x=y\nD=\n")
    assert environment_file(str(file)) == {"A": "1", "B": "two words", "C": "x=y", "D": ""}
    file.write_text("A=1\nsecret-without-a-name\n")
    with pytest.raises(PlanError, match="line 2: is not NAME=value") as caught:
        environment_file(str(file))
    assert "secret" not in str(caught.value)


def test_a_variable_that_is_not_set_here_is_named(tmp_path):
    config = load_config(
        {
            "output": str(tmp_path / "out"),
            "samples": {"manifest": "m.jsonl"},
            "features": {"words": {"kind": "tokens"}},
            "cluster": {"env": ["MMRAY_TEST_UNSET"], "address": "http://127.0.0.1:1"},
        }
    )
    assert "MMRAY_TEST_UNSET" not in os.environ
    with pytest.raises(PlanError, match="not set here, so not to be sent along: MMRAY_TEST_UNSET"):
        submit("extract", config, "mmray.yaml")


@pytest.mark.parametrize("headers", ["no json", "[1]", '{"a": 1}'])
def test_headers_that_are_none_are_not_shown(monkeypatch, headers, tmp_path):
    from mmray.distributed.jobs import jobs

    monkeypatch.setenv("RAY_JOB_HEADERS", headers)
    with pytest.raises(PlanError, match="RAY_JOB_HEADERS must be a JSON object") as caught:
        jobs("http://127.0.0.1:1")
    assert headers not in str(caught.value).partition("must be")[0]
