"""A YAML file and overrides → a checked `Config`, and back.

Relative paths of a file start at the file's folder, wherever the command runs; those of an override, which
is typed in a shell, start at the shell's. A config that was read has absolute paths: workers have other
working directories.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mmray.config.explain import explain, merged
from mmray.config.rules import broken_rules
from mmray.config.schema import Config
from mmray.config.values import assign, dump, parse, with_tuples
from mmray.errors import ConfigError
from mmray.settings import Names, paths_in
from mmray.storage.uris import absolute, join, scheme_of

__all__ = ["ConfigLike", "as_config", "dump_config", "load_config", "override"]

ConfigLike = Config | str | os.PathLike[str]
"""A config, or the path of its YAML file."""


def load_config(
    source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Config:
    """Read a config: a YAML file, or the same as nested plain values.

    `overrides` are `section.key=value` texts (values in YAML) or `{"section.key": value}`. Relative paths
    start at the folder of the file; those of plain values and overrides at the working directory.

    Raises:
        ConfigError: with every fault of the file and the overrides at once.
    """
    if isinstance(source, Mapping):
        name, folder, data = "config", ".", dict(source)
    else:
        name, folder, data = str(source), os.path.dirname(source) or ".", _read(source)
    values, faults = _parsed(overrides)
    data, unset = assign(data, values)
    config = _validate(data, name, faults + unset)
    typed = tuple(dotted for dotted, _ in values)
    return _with_absolute_paths(config, folder, typed)


def as_config(config: ConfigLike) -> Config:
    """A config with absolute paths, from a `Config` or the path of a YAML file.

    Raises:
        ConfigError: as `load_config`.
    """
    return _with_absolute_paths(config, ".") if isinstance(config, Config) else load_config(config)


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """The same config with `{dotted path: value}` in place, checked again.

    Another `kind` starts from its own defaults: the settings beside it were those of the old kind.

    Raises:
        ConfigError: with every fault at once.

    """
    data, faults = assign(config.model_dump(mode="json"), values.items())
    return _validate(data, "config with overrides", faults)


def dump_config(config: Config) -> str:
    """The config as YAML that `load_config` reads back to an equal one; unset values are left out."""
    return dump(config.model_dump(mode="json", exclude_defaults=True))


# ------------------------------------------------------------------------------------ reading


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    source = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        # Where it was looked for is not in a relative path.
        where = "" if os.path.isabs(source) else f" in {os.getcwd()}"
        raise ConfigError(source, [("", f"no such file{where}; `mmray init` writes one")]) from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(source, [("", f"cannot be read: {reason}")]) from None
    data = parse(text, source)
    if not isinstance(data, dict):
        raise ConfigError(source, [("", "must be a mapping of sections; `mmray init` writes one")])
    return data


def _parsed(overrides: Sequence[str] | Mapping[str, Any]) -> tuple[list[tuple[str, Any]], list]:
    """(dotted path, value) of each override, and the faults of the others."""
    if isinstance(overrides, Mapping):
        return list(overrides.items()), []
    values, faults = [], []
    for item in overrides:
        dotted, equals, value = item.partition("=")
        if not equals or not all(dotted.split(".")):
            faults.append((item, "an override is written section.key=value"))
            continue
        try:
            values.append((dotted, parse(value, item)))
        except ConfigError as error:
            faults.append((item, error.faults[0][1]))
    return values, faults


def _validate(data: dict, source: str, faults: list[tuple[str, str]]) -> Config:
    config = None
    try:
        config = Config.model_validate(with_tuples(data))
    except ValidationError as error:
        faults = [*faults, *merged(explain(fault) for fault in error.errors())]
    if config is not None:
        faults = [*faults, *broken_rules(config)]
    if faults or config is None:
        raise ConfigError(source, faults)
    return config


# ------------------------------------------------------------------------------------ paths


def _with_absolute_paths(config: Config, folder: str, typed: tuple[str, ...] = ()) -> Config:
    """Relative paths start at `folder`; those at or below a dotted path of `typed` at the shell's."""
    changes = {}
    for dotted, value, names in paths_in(config):
        base = "." if any(f"{dotted}.".startswith(f"{each}.") for each in typed) else folder
        changes[dotted] = (
            [_from(base, each, names) for each in value]
            if isinstance(value, list)
            else _from(base, value, names)
        )
    return override(config, changes) if changes else config


def _from(folder: str, path: str, names: Names) -> str:
    found = absolute(join(folder, path if scheme_of(path) else os.path.expanduser(path)))
    if names is Names.PATH_OR_NAME and not path.startswith(("./", "../")) and not os.path.exists(found):
        return path
    return found
