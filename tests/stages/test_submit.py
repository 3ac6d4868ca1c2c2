"""`mmray submit` against a real Ray head on this machine, started as cluster/local.sh starts it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT

from mmray.stages.extract import extract

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
START_S = 60


@dataclass(frozen=True)
class Head:
    """A running Ray head: its dashboard's address, and the environment of clients that may use it."""

    address: str
    environment: dict[str, str]
    folder: Path
    """Of its files."""

    def submit(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`mmray submit …`, as a process of its own."""
        return self.run("submit", *arguments, **environment)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Another command that takes the dashboard's address."""
        return subprocess.run(
            [sys.executable, "-m", "mmray", *arguments, "--address", self.address],
            capture_output=True,
            text=True,
            timeout=240,
            cwd=ROOT,
            env={**self.environment, **environment},
        )

    def jobs(self) -> list[dict]:
        """What the dashboard tells everybody of its jobs."""
        token = Path(self.folder, ".ray/auth_token").read_text().strip()
        request = urllib.request.Request(
            f"{self.address}/api/jobs/", headers={"Authorization": f"Bearer {token}"}
        )
        return json.load(urllib.request.urlopen(request, timeout=30))


@pytest.fixture(scope="module")
def agent_port_taken() -> Iterator[None]:
    """As where another Ray runs on this machine."""
    with socket.socket() as other:
        with contextlib.suppress(OSError):  # one does
            other.bind(("", DEFAULT_DASHBOARD_AGENT_LISTEN_PORT))
            other.listen()
        yield


@pytest.fixture(scope="module")
def head(free_port, agent_port_taken) -> Iterator[Head]:
    """cluster/local.sh with ports, files and token of its own."""
    with tempfile.TemporaryDirectory(prefix="mmray-") as folder:  # short: Ray's sockets lie in it
        dashboard = free_port()
        address = f"http://127.0.0.1:{dashboard}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"HOME": folder, "RAY_AUTH_MODE": "token"}
        started = {"PORT": str(free_port()), "DASHBOARD_PORT": str(dashboard)}
        started["RAY_BIN"] = str(Path(sys.executable).parent / "ray")
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", str(ROOT / "cluster/local.sh"), "2", "--temp-dir", folder],
                env={**environment, **started},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait_for_dashboard(process, address, Path(folder, "log"))
            yield Head(address, environment, Path(folder))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def _wait_for_dashboard(process: subprocess.Popen, address: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5)
            return
        except urllib.error.HTTPError:  # it answers: it wants the token
            return
        except OSError:
            pass
        try:
            process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue
        break
    pytest.fail(f"the Ray head did not start:\n{log.read_text(errors='replace')[-2000:]}")


def test_a_stage_runs_as_a_job_with_its_log_and_its_exit_code(head, clip_project, clips, tmp_path):
    config = clip_project()
    done = head.submit("extract", str(tmp_path / "config.yaml"))
    assert done.returncode == 0, done.stderr
    summary = extract(config)  # finished: read, not run
    rows, failed_rows = summary["rows"], summary["failed_rows"]
    assert (rows, summary["rows_this_run"]) == (len(clips.faults), 0)
    assert f"{rows} done now" in done.stdout, "the stage's own summary"
    assert f"mmray submit train {tmp_path}/config.yaml --address {head.address}" in done.stdout, (
        "what is next"
    )

    again = head.submit("extract", str(tmp_path / "config.yaml"), "--retry-failed")
    assert again.returncode == 0, again.stderr
    assert f"retried  {failed_rows} rows, 0 of them" in again.stdout

    (tmp_path / "config.yaml").write_text(
        (tmp_path / "config.yaml").read_text().replace("manifest.jsonl", "nowhere.jsonl")
    )
    failed = head.submit("extract", str(tmp_path / "config.yaml"), f"output={tmp_path}/other")
    assert failed.returncode == 1
    assert "nowhere.jsonl: no such manifest" in failed.stdout
    assert "Traceback" not in failed.stdout + failed.stderr


def test_a_job_is_left_alone_found_and_followed(head, clip_project, tmp_path):
    clip_project()
    config = str(tmp_path / "config.yaml")
    left = head.submit("check", config, "--no-wait", "--name", "looking")
    assert left.returncode == 0, left.stderr
    assert f"mmray logs -f looking --address {head.address}" in left.stdout
    followed = head.run("logs", "-f", "looking")
    assert followed.returncode == 0, followed.stderr
    assert "no faults" in followed.stdout
    (job,) = [each for each in json.loads(head.run("jobs", "--json").stdout) if each["job"] == "looking"]
    assert (job["status"], job["stage"]) == ("succeeded", "check")
    assert head.run("logs", "looking").stdout == followed.stdout
    for command in ("logs", "stop"):
        unknown = head.run(command, "nobody")
        assert unknown.returncode == 1
        assert "no job 'nobody'" in unknown.stderr
    again = head.submit("check", config, "--name", "looking")
    assert again.returncode == 1
    assert "already exists" in again.stderr


def test_what_is_wrong_with_a_submission_is_said(head, free_port, clip_project, tmp_path):
    clip_project()
    config = str(tmp_path / "config.yaml")
    stranger = head.submit("extract", config, HOME=str(tmp_path))
    assert stranger.returncode == 1
    assert "wants its token" in stranger.stderr
    nobody = replace(head, address=f"http://127.0.0.1:{free_port()}").submit("extract", config)
    assert nobody.returncode == 1
    assert "no Ray cluster takes jobs" in nobody.stderr
    for misused in (("fly", config), ("train", config, "--retry-failed")):
        assert head.submit(*misused).returncode == 2


OWN_ENCODER = """
import os, time
from pathlib import Path
import torch

def make(folder):
    Path(folder, "begun").write_text("")
    while not Path(folder, "go").exists():
        time.sleep(0.05)
    Path(folder, "told").write_text(os.environ["MMRAY_TEST_KEY"][::-1] + os.environ["MMRAY_TEST_OTHER"])
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
"""


def test_code_and_keys_of_ones_own_travel_unseen_and_a_second_job_is_refused(head, clip_project, tmp_path):
    clip_project()
    (tmp_path / "own_encoder.py").write_text(OWN_ENCODER)
    (tmp_path / "keys.env").write_text("# of the store\nexport MMRAY_TEST_OTHER='quoted'\n")
    key = "key-" + os.urandom(16).hex()
    config = [str(tmp_path / "config.yaml"), f"features.face.encoder=own_encoder:make:{tmp_path}"]
    left = head.submit(
        "extract",
        *config,
        *("--env", "MMRAY_TEST_KEY", "--env-file", str(tmp_path / "keys.env"), "--no-wait", "--json"),
        MMRAY_TEST_KEY=key,
        PYTHONPATH=str(tmp_path),
    )
    assert left.returncode == 0, left.stderr
    job = json.loads(left.stdout)["job"]
    deadline = time.monotonic() + 200
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline, head.run("logs", job).stdout
        time.sleep(0.1)

    second = head.submit("train", *config)
    assert second.returncode == 75
    assert f"job {job} (mmray extract, running) is at work on it" in second.stderr
    (tmp_path / "go").write_text("")
    followed = head.run("attach", job)
    assert followed.returncode == 0, followed.stdout
    assert (tmp_path / "told").read_text() == key[::-1] + "quoted", "in an actor, too"

    (told,) = [each for each in head.jobs() if each["submission_id"] == job]
    assert told["metadata"]["output"] == str(tmp_path / "out")
    seen = [json.dumps(head.jobs()), followed.stdout, followed.stderr, left.stderr]
    files = [*head.folder.glob("session_*/logs/**/*"), *(tmp_path / "out").rglob("*"), head.folder / "log"]
    seen += [path.read_text(errors="replace") for path in files if path.is_file()]
    assert len(seen) > 20
    assert not any(key in text for text in seen)
