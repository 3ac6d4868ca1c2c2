"""YAML as people expect it ⇄ plain values: 1.2's core schema, and no key given twice."""

import re
import typing
from typing import Any

import yaml

from mmray.errors import ConfigError

__all__ = ["dump", "parse"]


class Loader(yaml.SafeLoader):
    """YAML as people expect it, which is YAML 1.2's core schema; a key given twice is a fault.

    PyYAML follows YAML 1.1, where `no` is false, `1:30` is ninety, `010` is eight and 1e-3 is a text.
    """

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


Loader.add_constructor("tag:yaml.org,2002:map", _mapping_without_duplicates)


def parse(text: str, source: str) -> Any:
    """YAML as plain values.

    Raises:
        ConfigError: with the line and column at which it is no YAML.
    """
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "yaml"
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(source, [(where, problem)]) from None


def dump(data: Any) -> str:
    """Plain values as YAML that `parse` reads back to the same."""
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True)
