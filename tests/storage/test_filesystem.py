import contextlib
import io
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmray.config import StorageConfig
from mmray.errors import MediaError, StorageError
from mmray.storage.filesystem import Storage
from mmray.storage.uris import absolute, join, parent, scheme_of

storage = Storage()


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path):
    """An empty folder of each kind of storage."""
    if request.param == "local":
        return str(tmp_path / "out")
    return request.getfixturevalue("s3").uri(uuid.uuid4().hex)


def message(info: pytest.ExceptionInfo) -> str:
    text = str(info.value)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


# ------------------------------------------------------------------------------------ names of places


@pytest.mark.parametrize(
    ("uri", "scheme"), [("a/b", ""), ("/a", ""), ("s3://b/k", "s3"), ("file:///a", "file"), ("", "")]
)
def test_scheme(uri, scheme):
    assert scheme_of(uri) == scheme


def test_join_keeps_what_is_absolute():
    assert join("runs/x", "a.mp4") == "runs/x/a.mp4"
    assert join("s3://b/d/", "a.mp4") == "s3://b/d/a.mp4"
    assert join("s3://b/d", "/a.mp4") == "/a.mp4"
    assert join("/d", "s3://b/a.mp4") == "s3://b/a.mp4"
    assert join(".", "a.mp4") == join("", "a.mp4") == "a.mp4"


def test_parent():
    assert parent("s3://b/d/f") == "s3://b/d"
    assert parent("/f") == "/"
    assert parent("f") == "."
    assert parent("a/b/") == "a"


def test_absolute_is_the_same_place_from_another_working_directory(tmp_path, monkeypatch):
    (tmp_path / "f").write_text("here")
    monkeypatch.chdir(tmp_path)
    path = absolute("f")
    monkeypatch.chdir("/")
    assert Path(path).read_text() == "here"
    assert absolute(f"file://{tmp_path}/f") == path
    assert absolute("s3://b/k") == "s3://b/k"


# ------------------------------------------------------------------------------------ both kinds


def test_what_is_written_is_read(folder):
    data = bytes(range(256)) * 1000
    storage.write(f"{folder}/deep/er/a.bin", data)
    assert storage.read(f"{folder}/deep/er/a.bin") == data
    assert storage.size(f"{folder}/deep/er/a.bin") == len(data)
    storage.write(f"{folder}/deep/er/a.bin", b"")
    assert storage.read(f"{folder}/deep/er/a.bin") == b""


def test_names_are_those_directly_below(folder):
    assert storage.names(folder) == set()
    for name in ("part-1", "part-2", "sub/x", "sub/y", "näme [1]*.txt"):
        storage.write(f"{folder}/{name}", b"1")
    assert (
        storage.names(folder) == storage.names(f"{folder}/") == {"part-1", "part-2", "sub", "näme [1]*.txt"}
    )
    assert storage.names(f"{folder}/part-1") == set()
    assert storage.names(f"{folder}/par") == set()
    assert storage.read(f"{folder}/näme [1]*.txt") == b"1"


def test_names_lists_more_than_one_page(s3):
    folder = uuid.uuid4().hex
    client = s3.client()
    for i in range(1005):  # S3 lists a thousand at a time
        client.put_object(Bucket=s3.bucket, Key=f"{folder}/{i}", Body=b"")
    assert storage.names(s3.uri(folder)) == {str(i) for i in range(1005)}


def test_names_sees_what_another_process_just_wrote(s3):
    folder = uuid.uuid4().hex
    assert storage.names(s3.uri(folder)) == set()
    s3.client().put_object(Bucket=s3.bucket, Key=f"{folder}/new", Body=b"")
    assert storage.names(s3.uri(folder)) == {"new"}


def test_exists(folder):
    assert not storage.exists(folder)
    storage.write(f"{folder}/a/b", b"")
    assert storage.exists(f"{folder}/a/b")
    assert storage.exists(f"{folder}/a")
    assert not storage.exists(f"{folder}/b")


def test_json(folder):
    value = {"rows": 3, "reason": "größe", "nested": [1.5, None, True]}
    assert storage.read_json(f"{folder}/a.json") is None
    storage.write_json(f"{folder}/a.json", value)
    assert storage.read_json(f"{folder}/a.json") == value
    assert storage.read_json(f"{folder}/a.json/b.json") is None
    assert "größe".encode() in storage.read(f"{folder}/a.json")
    storage.write(f"{folder}/a.json", b'{"cut":')
    with pytest.raises(StorageError) as info:
        storage.read_json(f"{folder}/a.json")
    assert f"{folder}/a.json: not valid JSON" in message(info)


def test_a_missing_file_is_named(folder):
    for act in (storage.read, storage.size):
        with pytest.raises(StorageError) as info:
            act(f"{folder}/nope")
        assert message(info).startswith(f"{folder}/nope: no such file")


def test_arrow_filesystem_serves_parquet(folder):
    table = pa.table({"sample_id": ["a", "b"], "x": [1.0, 2.0]})
    storage.write(f"{folder}/before", b"")
    filesystem, path = storage.arrow(f"{folder}/t.parquet")
    pq.write_table(table, path, filesystem=filesystem)
    assert storage.names(folder) == {"before", "t.parquet"}
    assert pq.read_table(path, filesystem=filesystem, columns=["x"]).to_pydict() == {"x": [1.0, 2.0]}


def test_copy_down(folder, tmp_path):
    files = {"config.yaml": b"a: 1", "sub/weights [1].bin": b"\0" * 5000}
    for name, data in files.items():
        storage.write(f"{folder}/run[1]/{name}", data)
    storage.write(f"{folder}/run[1]x", b"a neighbour with the same prefix")
    copy = storage.copy_down(f"{folder}/run[1]", str(tmp_path / "copy"))
    found = {str(p.relative_to(copy)): p.read_bytes() for p in Path(copy).rglob("*") if p.is_file()}
    assert found == files
    with pytest.raises(StorageError, match="nope: no such file"):
        storage.copy_down(f"{folder}/nope", str(tmp_path / "other"))


def test_media_is_a_local_file_with_its_suffix(folder):
    storage.write(f"{folder}/clip.mp4", b"frames")
    with storage.media(f"{folder}/clip.mp4") as path:
        assert Path(path).read_bytes() == b"frames"
        assert path.endswith(".mp4")
    assert os.path.exists(path) == (not folder.startswith("s3"))
    assert storage.read(f"{folder}/clip.mp4") == b"frames"


def test_media_that_is_missing(folder):
    with pytest.raises(MediaError) as info, storage.media(f"{folder}/nope.mp4"):
        pass
    assert info.value.reason == "missing_file"
    assert info.value.detail == f"{folder}/nope.mp4"


def test_a_fault_of_the_decoder_is_not_storages(folder):
    storage.write(f"{folder}/clip.mp4", b"")
    with pytest.raises(FileNotFoundError, match="mine"), storage.media(f"{folder}/clip.mp4"):
        raise FileNotFoundError("mine")


def test_unknown_scheme_and_null_character():
    with pytest.raises(StorageError, match="gs://b/k: unknown scheme 'gs'"):
        storage.read("gs://b/k")
    for uri in ("gs://b/k", "a\0b", "s3://bucket/a\0b"):
        with pytest.raises(MediaError) as info, storage.media(uri):
            pass
        assert info.value.reason == "fetch_failed"


def test_travels_to_other_processes(s3):
    uri = s3.uri(uuid.uuid4().hex)
    there = Storage(StorageConfig(endpoint_url=s3.endpoint_url))
    there.write(uri, b"x")
    assert pickle.loads(pickle.dumps(there)).read(uri) == b"x"


# ------------------------------------------------------------------------------------ whole or absent

SIZE = 32 * 2**20

WRITER = """
import itertools, sys
from mmray.storage.filesystem import Storage
storage = Storage()
blocks = [letter * {size} for letter in (b"a", b"b")]
for i in itertools.count():
    print(i, flush=True)
    storage.write(sys.argv[1], blocks[i % 2])
"""


@contextlib.contextmanager
def writer(uri: str):
    """A process that writes SIZE times `a`, then `b`, to `uri` without end; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER.format(size=SIZE), uri], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def assert_whole(data: bytes):
    assert len(data) == SIZE
    assert data.count(data[:1]) == SIZE


def test_a_killed_write_leaves_the_file_whole_or_absent(folder):
    cut = 0
    for i in range(6):
        name = f"{folder}/{i}/marker"
        with writer(name) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.01 * i)  # a moment later in the write each time
        if storage.exists(name):
            assert_whole(storage.read(name))
        else:
            cut += 1
    assert cut, "no write was cut: the test shows nothing"


def test_a_reader_beside_a_writer_never_sees_a_part(folder):
    name = f"{folder}/marker"
    with writer(name) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()  # the first write is done
        seen = set()
        for i in range(200):
            data = storage.read(name)
            assert_whole(data)
            seen.add(data[:1])
            if i >= 20 and len(seen) == 2:
                break
    assert seen == {b"a", b"b"}


def test_a_failed_local_write_leaves_nothing(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(StorageError) as info:
        storage.write(f"{tmp_path}/taken", b"x")
    assert message(info) == f"{tmp_path}/taken: is a directory"
    assert storage.names(str(tmp_path)) == {"taken"}


# ------------------------------------------------------------------------------------ refusals, local


@contextlib.contextmanager
def plain_user():
    """Root passes every permission check, so become nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_local_permissions():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        for name, mode in (("closed.mp4", 0o000), ("vault", 0o700)):
            path = Path(folder, name)
            path.mkdir() if name == "vault" else path.write_bytes(b"x")
            path.chmod(mode if os.geteuid() == 0 else 0o000)
        Path(folder).chmod(0o555)
        with plain_user():
            for act in (
                lambda: storage.read(f"{folder}/closed.mp4"),
                lambda: storage.write(f"{folder}/new", b""),
                lambda: storage.write(f"{folder}/vault/new", b""),
                lambda: storage.names(f"{folder}/vault"),
            ):
                with pytest.raises(StorageError) as info:
                    act()
                assert message(info).endswith(": permission denied")
            for name in ("closed.mp4", "vault/clip.mp4"):
                with pytest.raises(MediaError) as media, storage.media(f"{folder}/{name}"):
                    pass
                assert media.value.reason == "fetch_failed"
                assert media.value.detail == f"{folder}/{name}: permission denied"
        Path(folder).chmod(0o755)
        Path(folder, "vault").chmod(0o755)


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(StorageError) as info:
        storage.write(f"{tmp_path}/f/g", b"")
    assert message(info) == f"{tmp_path}/f/g: file exists"
    with pytest.raises(StorageError) as info:
        storage.copy_down(f"{tmp_path}/f", "unused")
    assert message(info) == f"{tmp_path}/f: not a directory"


# ------------------------------------------------------------------------------------ refusals, S3


def refusals(storage: Storage, uri: str, media: type[Exception] = StorageError) -> list[str]:
    """What each way to touch `uri` answers when it may not; `media` is how a fetch says so."""
    answers = []
    for act in (
        lambda: storage.read(uri),
        lambda: storage.read_json(uri),
        lambda: storage.write(uri, b"x"),
        lambda: storage.names(uri),
        lambda: storage.exists(uri),
        lambda: storage.size(uri),
        lambda: storage.copy_down(uri, "unused"),
    ):
        with pytest.raises(StorageError) as info:
            act()
        answers.append(message(info))
        assert answers[-1].startswith(f"{uri}: ")
    with pytest.raises(media) as info, storage.media(uri):
        pass
    assert type(info.value) is media
    return [*answers, message(info)]


@pytest.fixture
def new_keys(s3, monkeypatch):
    """Forget open sessions, so that changed keys in the environment are seen."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    yield monkeypatch
    s3fs.S3FileSystem.clear_instance_cache()


def test_wrong_secret(s3, new_keys):
    storage.write(s3.uri("there"), b"x")
    new_keys.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    for answer in refusals(storage, s3.uri("there")):
        assert "access denied" in answer
        assert "check the keys, storage.profile and the bucket's policy" in answer
        assert "wrong" not in answer
        assert s3.secret_key not in answer


def test_no_keys_at_all(s3, new_keys):
    new_keys.delenv("AWS_ACCESS_KEY_ID")
    new_keys.delenv("AWS_SECRET_ACCESS_KEY")
    start = time.monotonic()
    for answer in refusals(storage, s3.uri("there")):
        assert "set AWS_ACCESS_KEY_ID" in answer
    assert time.monotonic() - start < 30


def test_anonymous_is_refused_where_keys_are_needed(s3):
    for answer in refusals(Storage(StorageConfig(anonymous=True)), s3.uri("there")):
        assert "access denied" in answer


def test_unknown_profile(s3):
    for answer in refusals(Storage(StorageConfig(profile="nobody")), s3.uri("there")):
        assert "The config profile (nobody) could not be found" in answer


def test_missing_bucket(s3):
    for act in (lambda: storage.read("s3://no-bucket/k"), lambda: storage.write("s3://no-bucket/k", b"")):
        with pytest.raises(StorageError) as info:
            act()
        assert message(info) == "s3://no-bucket/k: no such file or bucket"
    assert storage.names("s3://no-bucket/k") == set()
    assert not storage.exists("s3://no-bucket/k")
    assert not storage.exists("s3://no-bucket")


def test_a_bucket_is_no_file(s3):
    with pytest.raises(StorageError) as info:
        storage.read(s3.uri())
    assert message(info).startswith(f"{s3.uri()}: ")
    assert "Key" in message(info)


@pytest.mark.parametrize("where", ["config", "environment"])
def test_endpoint_without_scheme(s3_environment, monkeypatch, where):
    if where == "environment":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
        asked = storage
    else:
        asked = Storage(StorageConfig(endpoint_url="127.0.0.1:9000"))
    setting = "AWS_ENDPOINT_URL" if where == "environment" else "storage.endpoint_url"
    for answer in refusals(asked, "s3://b/k"):
        assert f"{setting} is '127.0.0.1:9000'; it must start with http:// or https://" in answer


def test_nobody_listens_at_the_endpoint(s3_environment):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        start = time.monotonic()
        config = StorageConfig(endpoint_url=endpoint, max_attempts=2, retry_wait_s=0.01)
        for answer in refusals(Storage(config), "s3://b/k", media=MediaError):
            assert f"check storage.endpoint_url ({endpoint}) and the network" in answer
        assert time.monotonic() - start < 20  # 8 refusals, each after one wait of at most a second


class Proxy(threading.Thread):
    """Passes bytes on to a server; cuts the first connections after `cut[i]` bytes of their answers."""

    def __init__(self, server: str, cut: list[int]):
        super().__init__(daemon=True)
        self.server = server.removeprefix("http://").split(":")
        self.cut = cut
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def run(self):
        with contextlib.suppress(OSError):  # closed: the end
            while True:
                client, _ = self.listener.accept()
                limit = self.cut[self.connections] if self.connections < len(self.cut) else None
                self.connections += 1
                threading.Thread(target=self.serve, args=(client, limit), daemon=True).start()

    def serve(self, client: socket.socket, limit: int | None):
        upstream = socket.create_connection((self.server[0], int(self.server[1])))
        threading.Thread(target=self.copy, args=(client, upstream, None), daemon=True).start()
        self.copy(upstream, client, limit)

    @staticmethod
    def copy(source: socket.socket, sink: socket.socket, limit: int | None):
        with contextlib.suppress(OSError):
            while limit != 0 and (data := source.recv(2**16 if limit is None else min(2**16, limit))):
                sink.sendall(data)
                limit = None if limit is None else limit - len(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy(s3, cut: list[int]):
    thread = Proxy(s3.endpoint_url, cut)
    thread.start()
    try:
        yield thread
    finally:
        thread.listener.close()


@pytest.mark.parametrize("cut", [[0], [0, 0], [500_000], [0, 500_000]])
def test_cut_connections_are_tried_again(s3, cut):
    data = os.urandom(2**20)
    storage.write(s3.uri("big.bin"), data)
    with proxy(s3, cut) as flaky:
        there = Storage(StorageConfig(endpoint_url=flaky.endpoint))
        assert there.read(s3.uri("big.bin")) == data
        assert flaky.connections > len(cut)
    with proxy(s3, cut) as flaky:
        there = Storage(StorageConfig(endpoint_url=flaky.endpoint, retry_wait_s=0.01))
        with there.media(s3.uri("big.bin")) as path:
            assert Path(path).read_bytes() == data


def test_a_body_that_is_always_cut_is_a_fault_not_a_short_file(s3):
    storage.write(s3.uri("big.bin"), os.urandom(2**20))
    with proxy(s3, [500_000] * 1000) as broken:
        there = Storage(StorageConfig(endpoint_url=broken.endpoint, max_attempts=2))
        with pytest.raises(StorageError) as info:
            there.read(s3.uri("big.bin"))
        assert message(info).startswith(s3.uri("big.bin"))
        with pytest.raises(MediaError) as media, there.media(s3.uri("big.bin")):
            pass
        assert media.value.reason == "fetch_failed"


@pytest.mark.parametrize("attempts", [1, 3])
def test_max_attempts_counts_requests(s3, attempts):
    unavailable = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    requests = []

    def serve(listener: socket.socket):
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                requests.append(client.recv(2**16))
                client.sendall(unavailable)
                client.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(StorageError) as info:
            Storage(StorageConfig(endpoint_url=endpoint, max_attempts=attempts)).write(s3.uri("x"), b"x")
    assert "Service Unavailable" in message(info)
    assert len(requests) == attempts


# ------------------------------------------------------------------------------------ media, S3 in trouble

SLOW, BROKEN = (503, "SlowDown"), (500, "InternalError")
PATIENT = {"max_attempts": 4, "retry_wait_s": 0.01, "read_timeout_s": 0.5}


def fetched(flaky, uri: str, **settings) -> bytes:
    there = Storage(StorageConfig(endpoint_url=flaky.endpoint_url, **{**PATIENT, **settings}))
    with there.media(uri) as path:
        return Path(path).read_bytes()


@pytest.mark.parametrize(
    "faults",
    [
        [SLOW] * 3,
        [BROKEN],
        ["reset"],
        ["cut"],
        ["stall"],
        [(429, "TooManyRequests"), "cut", SLOW],
        ["cut"] * 3,
    ],
    ids=str,
)
def test_media_comes_whole_through_faults(s3, flaky_s3, faults):
    data = os.urandom(3_000_001)
    s3.client().put_object(Bucket=s3.bucket, Key="flaky.mp4", Body=data)
    flaky_s3.faults["flaky.mp4"] = list(faults)
    assert fetched(flaky_s3, s3.uri("flaky.mp4")) == data
    assert flaky_s3.asked("flaky.mp4") == len(faults) + 1
    ranges = [int(asked.removeprefix("bytes=").rstrip("-")) for _, asked in flaky_s3.requests if asked]
    assert ranges == sorted(ranges)
    if faults == ["cut"] * 3:  # each time half of the rest was there
        assert ranges == [1_500_000, 2_250_000, 2_625_000]


@pytest.mark.parametrize("fault", [SLOW, BROKEN, "reset", "cut"], ids=str)
def test_media_that_never_comes_costs_its_attempts(s3, flaky_s3, fault):
    s3.client().put_object(Bucket=s3.bucket, Key="never.mp4", Body=os.urandom(100_000))
    flaky_s3.faults["never.mp4"] = [fault] * 100
    with pytest.raises(MediaError) as info:
        fetched(flaky_s3, s3.uri("never.mp4"))
    assert (info.value.reason, info.value.attempts) == ("fetch_failed", 4)
    assert flaky_s3.asked("never.mp4") == 4


def test_media_that_is_missing_is_asked_for_once(s3, flaky_s3):
    flaky_s3.faults["late.mp4"] = [SLOW]
    for name, attempts in (("gone.mp4", 1), ("late.mp4", 2)):
        with pytest.raises(MediaError) as info:
            fetched(flaky_s3, s3.uri(name))
        assert (info.value.reason, info.value.attempts) == ("missing_file", attempts)
        assert flaky_s3.asked(name) == attempts


def test_another_object_under_the_same_key_is_never_mixed_in(s3, flaky_s3):
    """It was replaced after the first half was read: a reason, or all of one of them, but no chimera."""
    old, new = os.urandom(1_000_000), os.urandom(1_000_000)
    client = s3.client()
    client.put_object(Bucket=s3.bucket, Key="changed.mp4", Body=old)
    flaky_s3.faults["changed.mp4"] = ["stall"]
    patient = {**PATIENT, "read_timeout_s": 2.0}  # time to replace it in
    there = Storage(StorageConfig(endpoint_url=flaky_s3.endpoint_url, **patient))
    outcome = []

    def fetch():
        try:
            with there.media(s3.uri("changed.mp4")) as path:
                outcome.append(Path(path).read_bytes())
        except MediaError as error:
            outcome.append(error.reason)

    reader = threading.Thread(target=fetch)
    reader.start()
    while not flaky_s3.asked("changed.mp4") or flaky_s3.faults["changed.mp4"]:
        reader.join(0.01)
    client.put_object(Bucket=s3.bucket, Key="changed.mp4", Body=new)
    reader.join()
    assert outcome[0] in ("fetch_failed", old, new)


@pytest.mark.parametrize(
    "code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"]
)
def test_keys_that_are_refused_stop_the_job_at_once(s3, flaky_s3, code):
    flaky_s3.faults["clip.mp4"] = [(400 if code == "InvalidToken" else 403, code)] * 9
    with pytest.raises(StorageError) as info:
        fetched(flaky_s3, s3.uri("clip.mp4"))
    assert type(info.value) is StorageError
    assert code in message(info)
    assert "keys" in message(info)
    assert flaky_s3.asked("clip.mp4") == 1


def test_a_denied_object_is_one_sample_and_a_denied_bucket_the_job(s3, flaky_s3):
    client = s3.client()
    for key in ("good.mp4", "denied.mp4"):
        client.put_object(Bucket=s3.bucket, Key=key, Body=b"x")
    denied = (403, "AccessDenied")
    flaky_s3.faults["denied.mp4"] = [denied] * 9
    with pytest.raises(MediaError) as info:  # the bucket can be listed
        fetched(flaky_s3, s3.uri("denied.mp4"))
    assert (info.value.reason, info.value.attempts) == ("fetch_failed", 1)

    flaky_s3.faults[f"/{s3.bucket}"] = [denied] * 99
    with pytest.raises(StorageError, match="may not be listed either") as stopped:
        fetched(flaky_s3, s3.uri("denied.mp4"))
    assert type(stopped.value) is StorageError

    there = Storage(StorageConfig(endpoint_url=flaky_s3.endpoint_url, **PATIENT))
    with there.media(s3.uri("good.mp4")):
        pass
    with pytest.raises(MediaError), there.media(s3.uri("denied.mp4")):  # others of the bucket were read
        pass


def test_a_full_disk_stops_the_job(s3, flaky_s3, monkeypatch):
    s3.client().put_object(Bucket=s3.bucket, Key="large.mp4", Body=os.urandom(2**20))
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", lambda **_: io.FileIO("/dev/full", "r+"))
    with pytest.raises(StorageError, match="no space for a local copy") as info:
        fetched(flaky_s3, s3.uri("large.mp4"))
    assert type(info.value) is StorageError
    assert flaky_s3.asked("large.mp4") == 1
