"""A YAML file and overrides → a checked `Config`, and back."""

import typing
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mmray.config.explain import explain, merged
from mmray.config.nested import assign, with_tuples
from mmray.config.rules import broken_rules
from mmray.config.schema import Config
from mmray.config.text import dump, parse
from mmray.errors import ConfigError

__all__ = ["dump_config", "load_config", "override"]


def load_config(path: str | Path, overrides: typing.Sequence[str] = ()) -> Config:
    """Read a YAML config and apply `section.key=value` overrides (values in YAML).

    Raises:
        ConfigError: with every fault of the file and the overrides at once.

    """
    source = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(source, [("", f"cannot be read: {reason}")]) from None
    data = parse(text, source)
    if not isinstance(data, dict):
        raise ConfigError(source, [("", "must be a mapping of sections; `mmray init` writes one")])
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
    data, unset = assign(data, values)
    return _validate(data, source, faults + unset)


def override(config: Config, values: typing.Mapping[str, Any]) -> Config:
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
