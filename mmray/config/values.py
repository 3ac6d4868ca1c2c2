"""Plain values: YAML text as people expect it, and values at dotted paths.

PyYAML follows YAML 1.1, where `no` is false, `1:30` is ninety, `010` is eight and 1e-3 is a text; ruamel.yaml
follows 1.2, but makes dates of `2024-01-01` and a fault of `=`. A config wants YAML 1.2's core schema and
nothing else, so the rules by which a bare word becomes a value are listed here.

A config may come from a stranger: its size, its nesting and what its aliases grow to are bounded before
anything is built from it.
"""

import re
import typing
from collections.abc import Iterable
from typing import Any

import yaml

from mmray.errors import ConfigError

__all__ = ["assign", "dump", "parse", "set_at", "with_tuples"]

MOST_CHARACTERS = 1_000_000
MOST_DEPTH = 50
MOST_VALUES = 100_000  # aliases counted by what they stand for


class Loader(yaml.SafeLoader):
    """Reads YAML 1.2's core schema; a key given twice is a fault."""

    yaml_implicit_resolvers: typing.ClassVar = {}


class Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or `Loader` would read as something else."""


_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
for _tag, _pattern, _first in (
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("merge", re.compile(r"^<<$"), "<"),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, list(_first))
Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _mapping_without_duplicates(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict:
    seen: dict[str, int] = {}
    for key_node, _ in node.value:
        mark = key_node.start_mark
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(problem="a key must be a text", problem_mark=mark)
        if key_node.value in seen:
            raise yaml.constructor.ConstructorError(
                problem=f"key {key_node.value!r} was already given on line {seen[key_node.value]}",
                problem_mark=mark,
            )
        seen[key_node.value] = mark.line + 1
    return loader.construct_mapping(node, deep=True)


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    try:
        return loader.construct_yaml_int(node)
    except ValueError:
        problem = f"a number of {len(node.value)} digits"
        raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark) from None


Loader.add_constructor("tag:yaml.org,2002:map", _mapping_without_duplicates)
Loader.add_constructor("tag:yaml.org,2002:int", _number)


def parse(text: str, source: str) -> Any:
    """YAML as plain values.

    Raises:
        ConfigError: with the line and column at which it is no YAML, or larger than a config can be.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(source, [("", f"has {len(text)} characters: no config is that long")])
    try:
        _require_bounded(text)
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "yaml"
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(source, [(where, problem)]) from None
    except (ValueError, OverflowError) as error:  # `!!float x`, `!!timestamp 2024-13-01` and the like
        raise ConfigError(source, [("yaml", " ".join(str(error).split())[:200])]) from None


def _require_bounded(text: str) -> None:
    """Walk the events of `text`, which are flat, before nodes are built from them by recursion.

    Raises:
        yaml.MarkedYAMLError: where it is nested too deeply, or its aliases stand for too many values.
    """
    opened: list[tuple[str | None, int]] = []  # anchor, values before it
    sizes: dict[str, int] = {}
    values = 0
    for event in yaml.parse(text, Loader=Loader):
        problem = None
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, values))
            problem = "is nested too deeply" if len(opened) > MOST_DEPTH else None
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor:
                sizes[anchor] = values - before
        elif isinstance(event, yaml.ScalarEvent):
            sizes |= {event.anchor: 1} if event.anchor else {}
        elif isinstance(event, yaml.AliasEvent):
            name = event.anchor or ""
            if name in {anchor for anchor, _ in opened}:
                problem = f"alias {name!r} stands inside what it stands for"
            values += sizes.get(name, 0)  # pyright: ignore[reportArgumentType, reportCallIssue]
        values += isinstance(event, yaml.NodeEvent)
        if values > MOST_VALUES:
            problem = f"has more than {MOST_VALUES} values, aliases filled in"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def dump(data: Any) -> str:
    """Plain values as YAML that `parse` reads back to the same."""
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True)


# ------------------------------------------------------------------------------------ dotted paths


def assign(data: dict, values: Iterable[tuple[str, Any]]) -> tuple[dict, list[tuple[str, str]]]:
    """Nested `data` with values at dotted paths, and the faults of those that cannot be there."""
    faults = []
    # A kind resets the settings beside it, so kinds go first.
    for dotted, value in sorted(values, key=lambda item: not item[0].endswith(".kind")):
        data, fault = set_at(data, dotted, value)
        faults += [fault] if fault else []
    return data, faults


def set_at(data: dict, dotted: str, value: Any) -> tuple[dict, tuple[str, str] | None]:
    """A copy of nested `data` with the value at a dotted path, or the fault that prevents it."""
    key, _, rest = dotted.partition(".")
    if not rest:
        another_kind = key == "kind" and data.get("kind") not in (None, value)
        return {**({} if another_kind else data), key: value}, None
    child = data.get(key)
    if child is not None and not isinstance(child, dict):
        return data, (dotted, f"{key!r} is a value, it has no keys below it")
    new_child, fault = set_at(child or {}, rest, value)
    return {**data, key: new_child}, fault and (dotted, fault[1])


def with_tuples(data: Any) -> Any:
    """YAML has lists only; strict tuple fields (crop, ranges) want tuples."""
    if isinstance(data, dict):
        return {
            key: tuple(value)
            if key in ("crop", "uniform", "log_uniform", "int") and isinstance(value, list)
            else with_tuples(value)
            for key, value in data.items()
        }
    return data
