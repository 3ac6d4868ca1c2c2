"""An address that cannot be used is told in one line within seconds; a process that is ended, ends."""

import contextlib
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

from mmray.distributed import connect as module
from mmray.distributed.connect import connect
from mmray.errors import PlanError, WorkerError

LIMIT_S = 500.0
"""For a hang; some twenty times what it takes."""

CONFIG = """
output: out
samples: {manifest: manifest.jsonl}
targets: {mood: {kind: classification}}
features: {words: {kind: tokens}}
train: {workers: 1, epochs: 1000000, patience: 1000000, baselines: false}
"""


class Gcs(gcs_service_pb2_grpc.NodeInfoGcsServiceServicer):
    """What a head says of itself."""

    def __init__(self, version: str, token: str | None = None):
        self.version = version
        self.token = token

    def CheckAlive(self, request, context):  # noqa: N802 - the protocol's name
        if self.token and ("authorization", f"Bearer {self.token}") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        reply = gcs_service_pb2.CheckAliveReply  # pyright: ignore[reportAttributeAccessIssue]
        return reply(ray_version=self.version)


@contextlib.contextmanager
def served(gcs: Gcs) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(gcs, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


def refusal(address: str, monkeypatch) -> str:
    """What is said of an address, by a process in which no Ray is up."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    start = time.monotonic()
    with pytest.raises(PlanError) as info:
        connect(address)
    assert time.monotonic() - start < 30
    assert "\n" not in str(info.value)
    return str(info.value)


@pytest.mark.parametrize("address", ["nonsense", "host:", ":6379", "host:port", "host:99999"])
def test_no_address(monkeypatch, address):
    assert "is no address of a Ray cluster" in refusal(address, monkeypatch)


def test_nobody_listens(monkeypatch, free_port):
    assert "Connection refused" in refusal(f"127.0.0.1:{free_port()}", monkeypatch)
    assert "no Ray cluster answers at no-such-host.invalid:6379" in refusal(
        "no-such-host.invalid:6379", monkeypatch
    )


def test_the_dashboard_is_not_the_cluster(monkeypatch):
    assert "mmray submit --address" in refusal("http://127.0.0.1:8265", monkeypatch)


def test_a_port_that_is_silent(monkeypatch):
    monkeypatch.setattr(module, "ANSWER_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert f"at {address} does not answer" in refusal(address, monkeypatch)


def test_a_cluster_of_another_version(monkeypatch):
    with served(Gcs("1.2.3")) as address:
        said = refusal(address, monkeypatch)
    assert "is version 1.2.3, this machine has" in said


def test_a_wrong_token(monkeypatch):
    with served(Gcs("1.2.3", token="secret")) as address:
        assert "wants its token" in refusal(address, monkeypatch)


def test_a_ray_that_does_not_start_in_time_may_start_the_next_time(monkeypatch):
    """As Ray words it: the words are looked up in its source."""
    import ray._private.node

    words = "The current node timed out during startup. This "
    assert words in inspect.getsource(ray._private.node)

    def late(**options: object) -> None:
        raise Exception(words)  # noqa: TRY002 - so does Ray

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", late)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(WorkerError, match=r"^Ray does not start on this machine: The current node") as caught:
        connect()
    assert caught.value.exit_code == 75
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------ the process


def mmray(folder: Path, *arguments: str) -> subprocess.Popen:
    """The command as it is installed: without the working directory on its path."""
    code = "import sys; sys.argv[0] = 'mmray'; from mmray.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """Texts that are extracted, beside a folder called mmray that is not it."""
    folder = tmp_path_factory.mktemp("project")
    rows = [
        {"sample_id": f"{split}{mood}", "text": f"so {mood}", "mood": mood, "split": split}
        for mood in ("glad", "sad")
        for split in ("train", "val", "test")
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mmray.yaml").write_text(CONFIG)
    (folder / "mmray").mkdir()
    (folder / "mmray" / "__init__.py").write_text("raise RuntimeError('this is not it')\n")
    process = mmray(folder, "extract", "mmray.yaml", "--json")
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err
    assert json.loads(out)["rows"] == len(rows)
    return folder


@pytest.mark.ray
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("number", "said"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")])
def test_a_training_that_is_ended_says_so_in_one_line(project, number, said):
    """Also: its workers do not take the folder called mmray for mmray."""
    process = mmray(project, "train", "mmray.yaml", f"train.seed={number.value}")
    deadline = time.monotonic() + LIMIT_S
    while len(list((project / "out").glob("**/checkpoint_manager_snapshot.json"))) < (
        2 if number == signal.SIGINT else 1
    ):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "it never came to an epoch"
        time.sleep(0.1)
    start = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + number, err
    lines = err.strip().splitlines()
    assert lines[-1] == f"{said}; what is finished stays"
    assert "Traceback" not in out + err
    assert "*** SIG" not in err, "a dump of Ray's"
    assert time.monotonic() - start < LIMIT_S / 5
