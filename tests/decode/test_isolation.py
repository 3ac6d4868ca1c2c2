"""A child process that really crashes, hangs and eats memory, and what is left of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mmray.decode.choice import Decoders
from mmray.decode.image import Frames
from mmray.decode.isolation import Sandbox
from mmray.decode.media import decode
from mmray.decode.wanted import Pictures, Sound
from mmray.errors import MediaError
from tests.decode.making import H264, RATE_HZ, RAW, SQUARE, ffmpeg, melody, raw, write_wav

# The child imports what it is to call, so it is a module of its own.
CALLS = '''
import ctypes, os
import numpy as np
from mmray.errors import MediaError

libc, locked = ctypes.CDLL(None), ctypes.PyDLL(None)  # a PyDLL call keeps Python's lock
libc.malloc.restype = ctypes.c_void_p


def pid():
    return os.getpid()


def give_back(*values):
    return values


def read_nowhere():
    ctypes.string_at(0)


def start_another():
    import subprocess
    return subprocess.Popen(["sleep", "1000"]).pid


def die(number):
    os.kill(os.getpid(), number)


def leave(code):
    os._exit(code)


def abort_in_c():
    libc.abort()


def hang_in_c(pid_file=None):
    if pid_file:
        with open(pid_file + ".part", "w") as file:
            file.write(str(os.getpid()))
        os.rename(file.name, pid_file)
    while True:
        locked.pause()


def spin():
    while True:
        pass


def allocate_in_c(mib):
    """Blocks that are written to and never given back."""
    for _ in range(mib):
        block = libc.malloc(ctypes.c_size_t(2**20))
        libc.memset(ctypes.c_void_p(block), 1, ctypes.c_size_t(2**20))


def allocate_arrays():
    arrays = []
    while True:
        arrays.append(np.ones(2**22))


def ask_for_too_much():
    np.ones(2**55, np.uint8)


def refuse():
    raise MediaError("corrupt", "at 3 s")


def defect():
    return 1 // 0
'''


@pytest.fixture(scope="module")
def calls(tmp_path_factory) -> Iterator:
    """The module of functions to call, importable by its name."""
    folder = tmp_path_factory.mktemp("calls")
    (folder / "sandboxed_calls.py").write_text(CALLS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import sandboxed_calls  # pyright: ignore[reportMissingImports]

        yield sandboxed_calls


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(timeout_s=30, memory_mb=200)
    yield made
    made.close()


def is_gone(pid: int) -> bool:
    """Whether no such process is left, a zombie included."""
    return not Path(f"/proc/{pid}").exists()


def is_dead(pid: int) -> bool:
    """Whether it runs no more; its new parent may not have noticed yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def test_the_child_that_decodes_is_light(tmp_path):
    """It holds PyAV, Pillow and NumPy, whatever this process has loaded."""
    ffmpeg(*RAW, *H264, tmp_path / "video.mp4", data=raw(range(50)))
    path = write_wav(tmp_path / "sound.wav", melody(20))
    light = Sandbox(timeout_s=60, memory_mb=200)
    segment: dict[str, float | None] = {"start_s": None, "end_s": None}
    pictures = light.call(decode, Pictures(SQUARE), str(tmp_path / "video.mp4"), segment, Decoders("pyav"))
    sound = light.call(decode, Sound(RATE_HZ), str(path), segment, Decoders("pyav"))
    assert isinstance(pictures, Frames)
    assert len(pictures.pixels) == 8
    assert len(sound) == 20 * RATE_HZ
    assert light.usage()[1] < 150e6
    light.close()


def test_what_the_child_started_ends_with_it(sandbox, calls):
    other = sandbox.call(calls.start_another)
    assert not is_dead(other)
    sandbox.close()
    wait_until(lambda: is_dead(other))


def test_large_arrays_cross_in_memory_that_goes_with_them(sandbox, calls):
    """They are copied once; no file stays open, and no mapping, when they are let go."""
    sandbox.call(calls.give_back, 0)
    files, maps = len(os.listdir("/proc/self/fd")), Path("/proc/self/maps").read_text().count("memfd")
    sent = [np.arange(2**18 + 5 * step, dtype=np.uint16) for step in range(20)]
    back = [sandbox.call(calls.give_back, array)[0] for array in sent]
    assert Path("/proc/self/maps").read_text().count("memfd") == maps + 20
    for array, value in zip(sent, back, strict=True):
        np.testing.assert_array_equal(array, value)
        assert value.ctypes.data % 64 == 0
    del back, value
    assert Path("/proc/self/maps").read_text().count("memfd") == maps
    assert len(os.listdir("/proc/self/fd")) == files


@pytest.mark.parametrize(
    "value",
    [
        None,
        "größe",
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.zeros((0, 64), np.float32),
        np.asfortranarray(np.random.default_rng(0).standard_normal((300, 500))),
        np.arange(20)[::3],
        [np.ones(2**21, np.uint8), {"b": np.zeros(3)}],
    ],
    ids=["nothing", "text", "pixels", "no rows", "by columns", "strided", "nested and large"],
)
def test_values_come_back_as_they_went(sandbox, calls, value):
    (back,) = sandbox.call(calls.give_back, value)
    np.testing.assert_equal(back, value)
    if isinstance(value, np.ndarray):
        assert back.dtype == value.dtype
        assert back.flags.writeable


def test_one_child_serves_many_calls_and_ends_with_the_sandbox(sandbox, calls):
    child = sandbox.call(calls.pid)
    assert child != os.getpid()
    assert {sandbox.call(calls.pid) for _ in range(5)} == {child}
    sandbox.close()
    assert is_gone(child)
    assert sandbox.call(calls.pid) != child


@pytest.mark.parametrize(
    ("name", "arguments", "detail"),
    [
        ("read_nowhere", (), "killed by SIGSEGV"),
        ("abort_in_c", (), "killed by SIGABRT"),
        ("die", (signal.SIGBUS,), "killed by SIGBUS"),
        ("die", (signal.SIGKILL,), "killed by SIGKILL"),
        ("leave", (3,), "ended with exit code 3"),
    ],
)
def test_a_death_costs_its_own_call(sandbox, calls, name, arguments, detail):
    child = sandbox.call(calls.pid)
    with pytest.raises(MediaError) as info:
        sandbox.call(getattr(calls, name), *arguments)
    assert (info.value.reason, info.value.detail) == ("decoder_crashed", detail)
    assert is_gone(child)
    assert sandbox.call(calls.give_back, 1) == (1,)


@pytest.mark.parametrize("name", ["hang_in_c", "spin"])
def test_a_hang_is_cut_off(calls, name):
    sandbox = Sandbox(timeout_s=0.3)
    child = sandbox.call(calls.pid)
    with pytest.raises(MediaError) as info:
        sandbox.call(getattr(calls, name))
    assert (info.value.reason, info.value.detail) == ("decoder_timed_out", "no end after 0.3 s")
    assert is_gone(child)
    assert sandbox.call(calls.give_back, 1) == (1,)
    sandbox.close()


@pytest.mark.parametrize(
    ("name", "arguments", "detail"),
    [
        ("allocate_in_c", (2**20,), "more than 200 MiB"),
        ("allocate_arrays", (), "more than 200 MiB"),
        ("ask_for_too_much", (), "an allocation was refused"),
    ],
)
def test_memory_without_end_is_cut_off(sandbox, calls, name, arguments, detail):
    with pytest.raises(MediaError) as info:
        sandbox.call(getattr(calls, name), *arguments)
    assert (info.value.reason, info.value.detail) == ("decoder_out_of_memory", detail)
    assert sandbox.call(calls.give_back, 1) == (1,)


def test_what_calls_leave_behind_is_no_later_calls_fault(sandbox, calls):
    """Each leaks 80 MiB of 200 allowed: the fourth finds a new child instead of the limit."""
    children = []
    for _ in range(7):
        sandbox.call(calls.allocate_in_c, 80)
        children.append(sandbox.call(calls.pid))
    assert len(set(children)) > 1
    assert all(is_gone(child) for child in set(children) - {children[-1]})


def test_a_child_that_died_between_two_calls_is_replaced(sandbox, calls):
    child = sandbox.call(calls.pid)
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert sandbox.call(calls.give_back, 1) == (1,)


def test_a_reason_arrives_as_it_is_and_a_defect_with_its_traceback(sandbox, calls):
    child = sandbox.call(calls.pid)
    with pytest.raises(MediaError) as info:
        sandbox.call(calls.refuse)
    assert (info.value.reason, info.value.detail) == ("corrupt", "at 3 s")
    with pytest.raises(RuntimeError, match=r"(?s)in defect.*ZeroDivisionError"):
        sandbox.call(calls.defect)
    assert sandbox.call(calls.pid) == child


PARENT = """
import sys
from mmray.decode.isolation import Sandbox
sys.path.insert(0, sys.argv[1])
import sandboxed_calls as calls
sandbox = Sandbox()
print(sandbox.call(calls.pid), flush=True)
if sys.argv[2] == "idle":
    sys.stdin.read()
sandbox.call(calls.hang_in_c, sys.argv[3])
"""


@pytest.mark.parametrize("state", ["idle", "hanging"])
def test_no_child_outlives_a_killed_parent(calls, tmp_path, state):
    pid_file = tmp_path / "pid"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, os.path.dirname(calls.__file__), state, str(pid_file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    if state == "hanging":
        wait_until(pid_file.exists)
        assert int(pid_file.read_text()) == child
    assert not is_gone(child)
    parent.kill()
    parent.wait()
    wait_until(lambda: is_dead(child))
    parent.stdin.close()
    parent.stdout.close()
