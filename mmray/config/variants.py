"""A config → the same with other settings or fewer features: a trial of a search, a compared model."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmray.config.load import override
from mmray.config.schema import Config
from mmray.config.search import FEATURES
from mmray.config.training import CompareConfig

__all__ = ["varied"]


def varied(config: Config, changes: Mapping[str, Any]) -> Config:
    """The config with `{dotted path: value}`, and with some of its features where `features` names them.

    Raises:
        ConfigError: with every fault at once.
    """
    settings = {dotted: value for dotted, value in changes.items() if dotted != FEATURES}
    changed = override(config, settings)
    return _with_features(changed, changes[FEATURES]) if FEATURES in changes else changed


def _with_features(config: Config, names: Sequence[str]) -> Config:
    """The config with these features only, and without what it says about the parts of others."""
    if {*names} == config.features.keys():
        return config
    kept = {name: feature for name, feature in config.features.items() if name in names}
    gone = config.features.keys() - kept.keys()
    searched = config.tune.model_copy(update={"space": {}})

    def concerns(part: str) -> bool:
        return not gone.intersection(part.split(".")[1:2])

    train, model = config.train, config.model
    return override(
        config.model_copy(update={"compare": CompareConfig(), "tune": searched}),
        {
            "features": {name: feature.model_dump(mode="json") for name, feature in kept.items()},
            "model.encoders": {n: e.model_dump(mode="json") for n, e in model.encoders.items() if n in kept},
            "model.inputs": {n: i.model_dump(mode="json") for n, i in model.inputs.items() if n in kept},
            "train.freeze": [part for part in train.freeze if concerns(part)],
            "train.learning_rates": {part: x for part, x in train.learning_rates.items() if concerns(part)},
        },
    )
