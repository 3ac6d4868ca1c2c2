import inspect
import pickle
import re
import typing

import pytest

from mmray import errors
from mmray.errors import ConfigError, MediaError, MmrayError, Reason

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


def test_all_is_complete():
    assert set(errors.__all__) == {kind.__name__ for kind in CLASSES} | {"Reason"}


def test_the_docstring_draws_the_tree():
    drawn = dict.fromkeys(re.findall(r"(\w+Error)\b", errors.__doc__ or ""))
    assert set(drawn) == {kind.__name__ for kind in CLASSES}
    for kind in CLASSES:
        assert kind.__bases__ == ((Exception,) if kind is MmrayError else (MmrayError,))


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
