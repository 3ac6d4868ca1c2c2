import inspect
import pickle
import re
import typing

import pytest

from mmray import errors
from mmray.errors import ConfigError, MediaError, Reason

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


def test_all_is_complete():
    assert set(errors.__all__) == {kind.__name__ for kind in CLASSES} | {"Reason"}


def test_the_docstring_draws_the_tree():
    drawn = {"": Exception}  # indent of a line → its class
    seen = set()
    for indent, name in re.findall(r"^    ([│├└─ ]*)(\w+Error)\b", errors.__doc__ or "", re.MULTILINE):
        kind = getattr(errors, name)
        above = max((each for each in drawn if len(each) < len(indent)), key=len, default="")
        assert kind.__bases__ == (drawn[above] if indent else Exception,), name
        drawn = {each: drawn[each] for each in drawn if len(each) < len(indent)} | {indent or "": kind}
        seen.add(kind)
    assert seen == set(CLASSES)


@pytest.mark.parametrize("kind", CLASSES)
def test_exit_codes_are_those_of_the_tree(kind):
    told = re.search(rf"{kind.__name__} .*exit code (\d+)", errors.__doc__ or "")
    if told and kind is not MediaError:
        assert kind.exit_code == int(told[1])
    else:
        assert kind.exit_code == 1


@pytest.mark.parametrize("kind", CLASSES)
def test_errors_travel_between_processes(kind):
    made = {
        ConfigError: lambda: ConfigError("a.yaml", [("train.epochs", "is required")]),
        MediaError: lambda: MediaError("corrupt", "at 3 s"),
    }
    error = made.get(kind, lambda: kind("what, where, what to do"))()
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_config_error_lists_every_fault():
    one = ConfigError("a.yaml", [("train.epochs", "is required")])
    assert str(one) == "a.yaml has 1 fault:\n  train.epochs  is required"
    two = ConfigError("a.yaml", [("x", "is wrong"), ("long.path", "too")])
    assert str(two) == "a.yaml has 2 faults:\n  x          is wrong\n  long.path  too"


def test_media_error_reads_as_reason_and_detail():
    assert str(MediaError("corrupt")) == "corrupt"
    assert str(MediaError("missing_file", "a.mp4")) == "missing_file: a.mp4"


def test_reasons_are_short_names():
    for reason in typing.get_args(Reason):
        assert re.fullmatch(r"[a-z_]+", reason)
