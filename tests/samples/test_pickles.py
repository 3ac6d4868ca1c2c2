"""Pickles of plain data come out as pickle reads them; those that are programs, or nonsense, are refused."""

import codecs
import collections
import os
import pickle
import pickletools
import random
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from mmray.errors import SamplesError
from mmray.samples.pickles import MAX_DEPTH, read_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Program:
    """Unpickled, it runs a command that leaves a file."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_is_a_program_is_refused_and_not_run(tmp_path, protocol):
    ran = tmp_path / "ran"
    programs = {
        "posix.system": Program(os.system, f"touch {ran}"),
        "builtins.eval": Program(eval, f"open({str(ran)!r}, 'w')"),
        "subprocess.check_output": Program(subprocess.check_output, ["touch", str(ran)]),
        "_io.open": Program(open, str(ran), "w"),
        "numpy.savetxt": Program(np.savetxt, str(ran), [1.0]),
        "_codecs.lookup": Program(codecs.lookup, "utf-8"),
    }
    for name, program in programs.items():
        data = pickle.dumps({"train": {"text": np.zeros(3), "id": program}}, protocol=protocol)
        with pytest.raises(SamplesError, match=r"it asks for [\w.]+") as caught:
            read_pickle(data, "set.pkl")
        told = str(caught.value)
        assert name.rpartition(".")[2] in told
        assert not ran.exists()
    pickle.loads(pickle.dumps(programs["posix.system"], protocol=protocol))
    assert ran.exists()  # the program is one


def test_no_name_is_reached_through_an_admitted_one():
    dotted = b"\x80\x04\x8c\x05numpy\x94\x8c\x0endarray.tofile\x94\x93."
    with pytest.raises(SamplesError, match=r"numpy\.ndarray\.tofile"):
        read_pickle(dotted, "set.pkl")


def same(found, expected) -> bool:
    """Equal, type by type; a set comes out as a list, a bytearray as bytes, a numpy number as Python's."""
    if isinstance(expected, np.ndarray):
        if expected.dtype.kind == "O":
            return found.shape == expected.shape and all(map(same, found.ravel(), expected.ravel()))
        whole = found.dtype == expected.dtype.newbyteorder("=") and found.shape == expected.shape
        return whole and bool(np.array_equal(found, expected, equal_nan=expected.dtype.kind in "fc"))
    if isinstance(expected, set | frozenset):
        return isinstance(found, list) and set(found) == expected and len(found) == len(expected)
    if isinstance(expected, dict):
        pairs = zip(found.items(), expected.items(), strict=True)
        return all(same(k, key) and same(v, value) for (k, v), (key, value) in pairs)
    if isinstance(expected, list | tuple):
        alike = type(found) is type(expected) and len(found) == len(expected)
        return alike and all(map(same, found, expected))
    if isinstance(expected, np.generic):
        expected = expected.item()
    if isinstance(expected, bytearray):
        expected = bytes(expected)
    return type(found) is type(expected) and (found == expected or found != found)


def random_array(rng: np.random.Generator) -> np.ndarray:
    shape = tuple(rng.integers(0, 4, rng.integers(0, 4)))
    numbers = rng.normal(scale=50, size=shape)
    kind = rng.choice(["?", "u1", "i2", "<i4", ">i8", "f2", "<f4", ">f8", "c8", "U3", "S4", ">U2", "O"])
    if kind[-2] in "US" if len(kind) > 1 else False:
        array = np.array(
            numbers.astype(int).astype(str) if kind[-2] == "U" else numbers.astype(int), dtype=kind
        )
    elif kind == "O":
        array = np.array([f"é{x:.0f}" for x in numbers.ravel()] + [None], dtype=object)
    else:
        array = np.abs(numbers).astype(kind)
    return np.asfortranarray(array) if rng.random() < 0.3 else array


def random_tree(rng: np.random.Generator, depth: int = 3):
    draw = rng.integers(0, 16 if depth else 11)
    plain = [
        None, True, False, int(rng.integers(-9, 9)), -(2**70), 0.1, b"\x00\xff", bytearray(b"ab\x80"),
        "é\n'\"\u2028😀",
        np.float32(1.5), random_array(rng),
    ]  # fmt: skip
    if draw < len(plain):
        return plain[draw]
    below = [random_tree(rng, depth - 1) for _ in range(rng.integers(0, 5))]
    keys = [f"k{i}" for i in range(len(below))]
    makers = {
        11: lambda: below,
        12: lambda: tuple(below),
        13: lambda: dict(zip(keys, below)),
        14: lambda: collections.OrderedDict(zip(range(5), below)),
        15: lambda: {"set": {1, 2, "x"}, "frozen": frozenset((3,)), "shared": [below, below]},
    }
    return makers[draw]()  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_is_what_pickle_reads(protocol):
    rng = np.random.default_rng(protocol)
    for _ in range(300):
        tree = random_tree(rng)
        data = pickle.dumps(tree, protocol=protocol)
        assert same(read_pickle(data, "x.pkl"), pickle.loads(data)), tree
    assert same(read_pickle(pickle.dumps(collections.defaultdict(list, a=[1])), "x.pkl"), {"a": [1]})


def test_numpy_1_and_numpy_2_names_are_the_same():
    for protocol in PROTOCOLS:
        data = pickle.dumps({"x": np.arange(3.0), "y": np.float64(2)}, protocol=protocol)
        old = data.replace(b"numpy._core", b"numpy.core")
        if b"\x8c\x16numpy._core" in data:  # lengths stand before texts there
            old = data.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
            old = old.replace(b"\x8c\x13numpy._core.numeric", b"\x8c\x12numpy.core.numeric")
        for given in (data, old):
            assert same(read_pickle(given, "x.pkl"), {"x": np.arange(3.0), "y": 2.0})


def test_python_2_texts_and_arrays():
    """As Python 2.7 with numpy 1.16 writes them: texts as bytes, in protocols 0 and 2."""
    zero = b"(dp0\nS'na\\xc3\\xafve \\'q\\''\np1\n(lp2\nS'caf\\xe9'\np3\naI01\naL5L\nas."
    assert read_pickle(zero, "x.pkl") == {"naïve 'q'": ["café", True, 5]}
    raw = np.array([1.5, -2.0]).tobytes()
    two = (
        b"\x80\x02}q\x00U\x05trainq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00"
        b"\x85q\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02\x85q\x08cnumpy\ndtype\nq\tU\x02f8q\nK\x00K\x01\x87q\x0b"
        b"Rq\x0c(K\x03U\x01<q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89U\x10"
        + raw
        + b"q\x0ftq\x10bs."
    )
    assert same(read_pickle(two, "x.pkl"), {"train": np.array([1.5, -2.0])})
    assert same(pickle.loads(two, encoding="latin1"), {"train": np.array([1.5, -2.0])})


STATES = {
    # numpy's own __setstate__ dies of these: the reason why it is never called
    "dtype of a foreign state": b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR"
    b"(I3\nS'<'\nN(S'a'\nt(dI8\nI-1\nI-1\nI63\ntb.",
    "array of objects from bytes": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n"
        b"(S'O8'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI63\ntbI00\nS'AAAAAAAAAAAAAAAA'\ntb."
    ),
    "array larger than its bytes": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I999999999\ntcnumpy\n"
        b"dtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'AAAAAAAA'\ntb."
    ),
    "scalar of objects": b"cnumpy.core.multiarray\nscalar\n("
    b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRS'AAAAAAAA'\ntR.",
    "ndarray called": b"cnumpy\nndarray\n((I2\ntcnumpy\ndtype\n(S'O8'\nI0\nI1\ntRtR.",
    "records": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'V8'\nI0\nI1\ntRS'AAAAAAAA'\ntR.",
    "texts beyond Unicode": b"cnumpy.core.multiarray\nscalar\n("
    b"cnumpy\ndtype\n(S'U1'\nI0\nI1\ntRS'\\xff\\xff\\xff\\xff'\ntR.",
    "a name itself": b"(dS'x'\ncnumpy\nndarray\ns.",
    "an extension": b"\x82\x01.",
    "a persistent object": b"Px\n.",
    "an instance": b"(S'x'\nios\nsystem\n.",
    "list in itself": b"]q\x00h\x00a.",
    "dict in itself": b"}q\x00K\x01h\x00s.",
    "deeper than any data": b"]" * (MAX_DEPTH + 5) + b"a" * (MAX_DEPTH + 4) + b".",
    "billions of references": b"]q\x00(" + b"K\x01" * 9 + b"e" + b"".join(
        b"]q" + bytes([i]) + b"(" + (b"h" + bytes([i - 1])) * 10 + b"e" for i in range(1, 40)
    ) + b".",
    "an unfinished frame": b"\x80\x05\x95\xff\xff\xff\xff\xff\xff\xff\x7f]",
    "a text of terabytes": b"\x8d\x00\x00\x00\x00\x00\x01\x00\x00abc.",
    "an integer of many digits": b"I" + b"9" * 10_000 + b"\n.",
    "an empty stack": b"0.",
    "nothing": b"",
    "no Unicode": pickle.dumps({"a": "\ud83d"}),
    "a list as a key": b"}]K\x01s.",
    "far too many rows of nothing": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I999999999999\nI0\ntcnumpy\n"
        b"dtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS''\ntb."
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_nonsense_is_refused_in_one_line(name):
    with pytest.raises(SamplesError) as caught:
        read_pickle(STATES[name], "set.pkl")
    assert len(str(caught.value)) < 400
    assert str(caught.value).startswith("set.pkl: not")


def test_pandas_is_refused_with_what_to_do():
    import pandas as pd

    with pytest.raises(SamplesError, match=r"asks for pandas.*\.parquet or \.csv"):
        read_pickle(pickle.dumps(pd.DataFrame({"a": [1]})), "set.pkl")


def whole_pickles() -> list[bytes]:
    rng = np.random.default_rng(7)
    trees = [random_tree(rng) for _ in range(20)]
    array = {"train": {"text": rng.normal(size=(3, 2)).astype("f4"), "id": ["a", "b", "c"]}}
    return [pickle.dumps(tree, protocol=i % 6) for i, tree in enumerate([array, *trees] * 2)]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, cut out, doubled or taken from the opcodes."""
    codes = [ord(opcode.code) for opcode in pickletools.opcodes]
    held = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(held)) if held else 0
        match rng.randrange(4):
            case 0:
                held[place : place + 1] = bytes([rng.choice(codes)])
            case 1:
                held[place : place + 1] = bytes([rng.randrange(256)])
            case 2:
                del held[place : place + rng.randint(1, 8)]
            case 3:
                held[place:place] = held[place : place + rng.randint(1, 16)]
    return bytes(held)


CHILD = """
import importlib.util, pathlib, random, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
spec = importlib.util.spec_from_file_location("these", sys.argv[1])
these = importlib.util.module_from_spec(spec)
spec.loader.exec_module(these)
rng, whole = random.Random(int(sys.argv[2])), these.whole_pickles()
refused = 0
for round in range(int(sys.argv[3])):
    data = these.mutated(rng.choice(whole), rng)
    pathlib.Path(sys.argv[4]).write_bytes(data)  # what a crash leaves behind
    start = time.process_time()
    try:
        these.read_pickle(data, "x.pkl")
    except these.SamplesError as error:
        refused += 1
        assert len(str(error)) < 600, str(error)
    assert time.process_time() - start < 5, data
print("refused", refused)
"""


@pytest.mark.parametrize(
    "rounds", [pytest.param(50, id="50"), pytest.param(1000, id="1000", marks=pytest.mark.endurance)]
)
def test_mutated_pickles_are_read_or_refused_and_never_crash(rounds, tmp_path):
    """In a process of its own, so that one that dies is seen; any exception but ours ends it too."""
    left = tmp_path / "last.pkl"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), __file__, "11", str(rounds), str(left)],
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:], left.read_bytes())
    assert int(done.stdout.split()[-1]) > rounds / 4  # most mutations are no pickle any more
