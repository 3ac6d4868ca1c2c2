"""A pickle → plain containers, texts, numbers and numpy arrays of numbers or texts; nothing in it is run.

A pickle is a program for a small stack machine, and unpickling runs it: whatever classes its author names are
called with arguments of the author's choice. Even numpy's own `dtype` and `ndarray` crash the process when
their `__setstate__` is given nonsense. So no unpickler is used here. The program is interpreted in two steps:

    _run       opcodes → a tree of lists, dicts, tuples, constants and `_Call(name, arguments, state)`
    _Plain     the tree → Python data; a call is looked up in the list of known ones and made by our own code

Any other name ends the reading and is told. Read are protocols 0 to 5, Python 2's texts (UTF-8, else Latin-1)
and the arrays of numpy 1 and 2. Work and memory are bounded by the file's size: opcodes, nesting, and how
much there is when what the file holds once and refers to often is counted each time.
"""

import codecs
import io
import math
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from mmray.errors import SamplesError

__all__ = ["read_pickle"]

MAX_OPCODES = 20_000_000
MAX_DEPTH = 60
MAX_ITEMS = 200_000_000
"""Numbers, texts and containers, each counted as often as it is referred to."""
PLAIN_TYPE = re.compile(
    r"(?:[<>=|]?)(?:\?|b1|[iu][1248]|f[248]|c8|c16|[SU][1-9][0-9]{0,6}|O8?|[bhilqBHILQefdFD])"
)


class _RefusedError(Exception):
    """The file holds what is not read; the message says what."""


class _Name(str):
    """`module.name`, as the file asks for it."""


class _Text2(bytes):
    """A `str` of Python 2: a text, or the bytes of an array."""


class _Call:
    """A call that the file wants made, and what it wants given to the result's `__setstate__`."""

    def __init__(self, function: Any, arguments: Any):
        self.function, self.arguments = function, arguments
        self.state: Any = None
        self.items: list[tuple[Any, Any]] = []


def read_pickle(data: bytes, what: str) -> Any:
    """The object of a pickle made of containers, texts, numbers and numpy arrays.

    Raises:
        SamplesError: where it holds anything else (the name is told), or is no whole pickle.
    """
    try:
        return _Plain().value(_run(io.BytesIO(data)))
    except _RefusedError as error:
        told = f"{what}: not read as a pickle of arrays: {error}"
        remedy = "save it as .parquet or .csv" if "pandas" in str(error) else "save the arrays as .npz"
        raise SamplesError(f"{told}; {remedy} where they were made") from None
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, AttributeError) as error:
        told = f"{type(error).__name__}: {str(error)[:200]}"
        raise SamplesError(f"{what}: not a whole pickle: {told}") from None
    except MemoryError:
        raise SamplesError(f"{what}: not enough memory for what this pickle holds") from None


# ------------------------------------------------------------------------------------ opcodes → tree

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
PUSH_ARGUMENT = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
    | {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
)
PUTS, GETS = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")


def _run(stream: io.BytesIO) -> Any:
    """The tree that a program builds. Only lists, dicts and `_Call`s change after they were made."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        taken = stack[start:]
        del stack[start:]
        return taken

    for _ in range(MAX_OPCODES):
        code = stream.read(1)
        opcode = pickletools.code2op.get(code.decode("latin-1"))  # pyright: ignore[reportAttributeAccessIssue]
        if opcode is None:
            raise ValueError("it breaks off" if not code else f"no opcode {code!r}")
        name = opcode.name
        if name == "STRING":
            argument = _escaped(stream)
        else:
            argument = opcode.arg.reader(stream) if opcode.arg else None
        if name in PUSH_ARGUMENT:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in ("BINSTRING", "SHORT_BINSTRING"):
            stack.append(_Text2(argument.encode("latin-1")))  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
        elif name == "STRING":
            stack.append(_Text2(argument))  # pyright: ignore[reportArgumentType]
        elif name in ("PROTO", "FRAME"):
            continue
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "STOP":
            return stack.pop()
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            since_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in PUTS:
            memo[argument] = stack[-1]  # pyright: ignore[reportArgumentType]
        elif name in GETS:
            stack.append(memo[argument])  # pyright: ignore[reportArgumentType]
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "LIST":
            stack.append(since_mark())
        elif name in ("APPEND", "APPENDS"):
            more = [stack.pop()] if name == "APPEND" else since_mark()
            _expect(stack[-1], list).extend(more)
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            taken = tuple(stack[-count:])
            if len(taken) < count:
                raise IndexError("the stack is empty")
            del stack[-count:]
            stack.append(taken)
        elif name == "EMPTY_DICT":
            stack.append(_Call(_Name("builtins.dict"), ()))
        elif name == "DICT":
            made = _Call(_Name("builtins.dict"), ())
            _set_items(made, since_mark())
            stack.append(made)
        elif name in ("SETITEM", "SETITEMS"):
            pairs = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else since_mark()
            _set_items(_expect(stack[-1], _Call), pairs)
        elif name == "EMPTY_SET":
            stack.append(_Call(_Name("builtins.set"), ([],)))
        elif name == "ADDITEMS":
            more = since_mark()
            _expect(_expect(stack[-1], _Call).arguments[0], list).extend(more)
        elif name == "FROZENSET":
            stack.append(_Call(_Name("builtins.frozenset"), (since_mark(),)))
        elif name == "GLOBAL":
            stack.append(_known(*argument.split(" ", 1)))  # pyright: ignore[reportArgumentType, reportOptionalMemberAccess]
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_known(_expect(module, str), _expect(attribute, str)))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_Call(_expect(function, _Name), _expect(arguments, tuple)))
        elif name == "BUILD":
            state = stack.pop()
            made = _expect(stack[-1], _Call)
            if made.state is not None:
                raise _RefusedError(f"it sets the state of {made.function} twice")
            made.state = state
        else:
            raise _RefusedError(f"it uses {name}, which makes objects of other kinds")
    raise _RefusedError(f"it has more than {MAX_OPCODES:,} operations")


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(
            f"a {type(value).__name__.strip('_')} stands where a {kind.__name__.strip('_')} should"
        )
    return value


def _set_items(made: _Call, pairs: list[Any]) -> None:
    made.items.extend(zip(pairs[::2], pairs[1::2], strict=True))


def _escaped(stream: io.BytesIO) -> bytes:
    """A text of Python 2 in protocol 0: quoted, with escapes, to the end of the line."""
    line = stream.readline()
    if len(line) < 3 or not line.endswith(b"\n") or line[:1] not in (b"'", b'"') or line[-2:-1] != line[:1]:
        raise ValueError("a text without its quotes")
    return codecs.escape_decode(line[1:-2])[0]  # pyright: ignore[reportAttributeAccessIssue]


def _known(module: str, name: str) -> _Name:
    """A name that some call below is known by, as numpy 1, numpy 2, Python 2 and Python 3 write it."""
    module = re.sub(r"^numpy\._core\b", "numpy.core", module)
    module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
    asked = f"{module}.{name}"
    if asked not in CALLS and asked not in ARGUMENTS:
        raise _RefusedError(f"it asks for {re.sub(r'[^A-Za-z0-9_.]', '?', asked)[:200]}")
    return _Name(asked)


# ------------------------------------------------------------------------------------ tree → data


class _Plain:
    """Makes Python data of a tree; what the tree holds once is made once."""

    def __init__(self):
        self.made: dict[int, Any] = {}
        self.sizes: dict[int, int] = {}
        self.open: set[int] = set()
        self.depth = 0

    def value(self, node: Any) -> Any:
        """The data of a node.

        Raises:
            _RefusedError: where it contains itself, is nested too deeply, or grows beyond all measure.
        """
        if node is None or type(node) in (bool, int, float, bytes):
            return node
        if isinstance(node, _Name):
            raise _RefusedError(f"it holds {node} itself")
        if isinstance(node, str):
            return _unicode(node)
        if isinstance(node, _Text2):
            return _text2(node)
        key = id(node)
        if key in self.made:
            return self.made[key]
        if key in self.open or self.depth > MAX_DEPTH:
            raise _RefusedError(
                "a container in it contains itself" if key in self.open else "it is nested too deeply"
            )
        self.open.add(key)
        self.depth += 1
        found = self._container(node)
        self.depth -= 1
        self.open.remove(key)
        self.made[key] = found
        self.sizes[key] = self._size(node, found)
        if self.sizes[key] > MAX_ITEMS:
            raise _RefusedError("it refers to the same data so often that it has no end")
        return found

    def _container(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.value(item) for item in node]
        if isinstance(node, tuple):
            return tuple(self.value(item) for item in node)
        if isinstance(node, bytearray):
            return bytes(node)
        if not isinstance(node, _Call):
            raise _RefusedError(f"it holds a {type(node).__name__}")
        if node.function not in CALLS:
            raise _RefusedError(f"it calls {node.function}")
        found = CALLS[node.function](self, node)
        if node.items and not isinstance(found, dict):
            raise _RefusedError(f"it sets items of {node.function}")
        for key, value in node.items:
            found[_key(self.value(key))] = self.value(value)
        return found

    def _size(self, node: Any, found: Any) -> int:
        """How many items there are below, counting what is shared each time."""
        if isinstance(found, np.ndarray) and found.dtype.kind != "O":
            return math.prod(max(1, length) for length in found.shape)
        parts: list[Any] = list(node) if isinstance(node, list | tuple) else []
        if isinstance(node, _Call):
            state = node.state if isinstance(node.state, tuple) else ()
            parts = [*node.arguments, *state, *(value for _, value in node.items)]
        texts = sum(len(part) // 8 for part in parts if isinstance(part, str | bytes))
        return 1 + len(parts) + texts + sum(self.sizes.get(id(part), 0) for part in parts)


def _unicode(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _RefusedError(f"a text in it is no Unicode: {text[:40]!r}") from None
    return text


def _text2(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _key(key: Any) -> Any:
    parts = key if isinstance(key, tuple) else (key,)
    if not all(part is None or isinstance(part, str | bytes | int | float | np.generic) for part in parts):
        raise _RefusedError(f"a dict in it has a {type(key).__name__} as a key")
    return key


# ------------------------------------------------------------------------------------ the calls


def _arguments(node: _Call, *counts: int) -> tuple[Any, ...]:
    if node.state is not None or len(node.arguments) not in counts:
        raise _RefusedError(f"it calls {node.function} with other arguments than numpy or pickle would")
    return node.arguments


def _dict(plain: _Plain, node: _Call) -> dict[Any, Any]:
    """Made of dict(), OrderedDict(), OrderedDict([(key, value), …]), defaultdict(list)."""
    given = [item for item in _arguments(node, 0, 1) if not isinstance(item, _Name)]
    return {_key(key): value for key, value in (plain.value(given[0]) if given else ())}


def _set(plain: _Plain, node: _Call) -> list[Any]:
    """A set has no order: sorted by what is written, so that it is the same in every run."""
    (items,) = _arguments(node, 1)
    return sorted(plain.value(_expect(items, list)), key=repr)


def _bytes(plain: _Plain, node: _Call) -> bytes:
    """Made of bytes(), bytearray(b"…"), _codecs.encode(text, "latin1"): how old protocols write bytes."""
    arguments = _arguments(node, 0, 1, 2)
    if not arguments:
        return b""
    given = plain.value(arguments[0])
    if isinstance(given, str) and len(arguments) == 2 and _codec(plain.value(arguments[1])):
        return given.encode("latin-1")
    if len(arguments) == 1 and isinstance(given, bytes):
        return given
    raise _RefusedError(f"it calls {node.function} with other arguments than pickle would")


def _codec(name: Any) -> bool:
    if name not in ("latin1", "latin-1"):
        raise _RefusedError(f"it asks for the codec {str(name)[:40]}")
    return True


def _complex(plain: _Plain, node: _Call) -> complex:
    real, imaginary = (plain.value(part) for part in _arguments(node, 2))
    return complex(_expect(real, float), _expect(imaginary, float))


def _dtype(plain: _Plain, node: Any) -> np.dtype:
    """Type and byte order of numpy.dtype("f4", False, True), state (3, "<", None, None, None, -1, -1, 0)."""
    if not isinstance(node, _Call) or node.function != "numpy.dtype" or not node.arguments:
        raise _RefusedError("an array's type is no dtype")
    code, state = plain.value(node.arguments[0]), plain.value(node.state or ())
    if not isinstance(code, str) or not PLAIN_TYPE.fullmatch(code):
        raise _RefusedError(f"it holds an array of type {str(code)[:40]}; numbers and texts are read")
    if len(state) > 3 and any(part not in (None, ()) for part in state[2:5]):
        raise _RefusedError("it holds an array of records; numbers and texts are read")
    order = state[1] if len(state) > 1 and state[1] in ("<", ">") else "="
    return np.dtype(code).newbyteorder(order)


def _reconstruct(plain: _Plain, node: _Call) -> np.ndarray:
    """Arguments (ndarray, (0,), b"b"), state (1, shape, dtype, in Fortran's order, data)."""
    if not node.arguments or node.arguments[0] != "numpy.ndarray" or not isinstance(node.state, tuple):
        raise _RefusedError("it reconstructs something that is no array")
    if len(node.state) not in (4, 5):
        raise _RefusedError("an array in it has a state that numpy would not write")
    shape, dtype, fortran, data = node.state[-4:]
    return _array(plain, data, _dtype(plain, dtype), plain.value(shape), "F" if fortran is True else "C")


def _frombuffer(plain: _Plain, node: _Call) -> np.ndarray:
    """Arguments (data, dtype, shape, order), as protocol 5 has them."""
    data, dtype, shape, order = _arguments(node, 4)
    order = plain.value(order)
    return _array(plain, data, _dtype(plain, dtype), plain.value(shape), "F" if order == "F" else "C")


def _scalar(plain: _Plain, node: _Call) -> Any:
    """Made of scalar(dtype, data): one number, as Python's own."""
    dtype, data = _arguments(node, 2)
    return _array(plain, data, _dtype(plain, dtype), (), "C").item()


def _array(plain: _Plain, data: Any, dtype: np.dtype, shape: Any, order: Any) -> np.ndarray:
    """An array of our own making, from data whose size fits."""
    whole = isinstance(shape, tuple) and all(type(length) is int and 0 <= length < 2**40 for length in shape)
    if not whole or len(shape) > 16:
        raise _RefusedError("an array in it has no shape")
    size = math.prod(shape)
    if dtype.kind == "O":
        items = plain.value(_expect(data, list))
        if len(items) != size:
            raise _RefusedError(f"an array of {size} objects holds {len(items)}")
        array = np.empty(size, dtype=object)
        array[:] = items if not any(isinstance(item, list | tuple | np.ndarray) for item in items) else None
        for place, item in enumerate(items):
            array[place] = item
        return array.reshape(shape, order=order)
    raw = bytes(data) if isinstance(data, bytes | bytearray) else plain.value(data)
    if not isinstance(raw, bytes) or len(raw) != size * dtype.itemsize:
        raise _RefusedError(f"an array of shape {list(shape)} and type {dtype} does not have its bytes")
    if dtype.kind == "b":
        array = np.frombuffer(raw, np.uint8) != 0
    else:
        array = np.frombuffer(raw, dtype).astype(dtype.newbyteorder("="), copy=False)
    if dtype.kind == "U" and size and array.view(np.uint32).max() > 0x10FFFF:
        raise _RefusedError("an array of texts in it is no Unicode")
    return array.reshape(shape, order=order)


def _misplaced_dtype(plain: _Plain, node: _Call) -> Any:
    raise _RefusedError("it holds numpy.dtype itself")


ARGUMENTS = frozenset(
    {"numpy.ndarray", *(f"builtins.{name}" for name in ("list", "int", "float", "str", "bool"))}
)
"""Names that are only given to calls."""
CALLS: dict[str, Callable[[_Plain, _Call], Any]] = {
    "builtins.dict": _dict,
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _dict,
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.complex": _complex,
    "_codecs.encode": _bytes,
    "numpy.dtype": _misplaced_dtype,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
}
