"""What types cannot say: names that point to nothing, columns that clash, searches that cannot be."""

from pydantic import ValidationError

from mmray.config.explain import did_you_mean, explain, merged
from mmray.config.features import MEDIA_SOURCES
from mmray.config.metrics import metric_names
from mmray.config.nested import set_at, with_tuples
from mmray.config.sections import Config

__all__ = ["broken_rules"]


def broken_rules(config: Config) -> list[tuple[str, str]]:
    """Names that point to nothing, and settings that contradict each other."""
    faults = []
    for name in config.model.encoders:
        if name not in config.features:
            hint = did_you_mean(name, config.features)
            faults.append((f"model.encoders.{name}", f"no feature has this name{hint}"))
    faults += _clashing(config)
    if config.train.monitor != "loss":
        target, _, metric = config.train.monitor.partition("/")
        if target not in config.targets:
            hint = did_you_mean(target, config.targets)
            faults.append(("train.monitor", f"no target is named {target!r}{hint}"))
        elif metric not in metric_names(config.targets[target]):
            allowed = ", ".join(f"{target}/{m}" for m in metric_names(config.targets[target]))
            faults.append(("train.monitor", f"must be loss or one of {allowed}"))
    if isinstance(config.train.loss_weights, dict):
        for name in config.train.loss_weights.keys() - config.targets.keys():
            hint = did_you_mean(name, config.targets)
            faults.append((f"train.loss_weights.{name}", f"no target has this name{hint}"))
    return faults + _unsearchable(config)


def _clashing(config: Config) -> list[tuple[str, str]]:
    """Columns of the sample, feature and prediction tables that two names would share."""
    owners: dict[str, str] = dict.fromkeys(("sample_id", "split", "errors"), "every table")
    faults = []
    for name in config.features:
        faults += _claim(owners, f"features.{name}", name, ("", "_length", "_start_s", "_step_s"))
    owners |= dict.fromkeys(("start_s", "end_s", *MEDIA_SOURCES), "the sample table")
    owners |= dict.fromkeys(("present", "model"), "the prediction table")
    for name in config.targets:
        faults += _claim(owners, f"targets.{name}", name, ("", "_predicted", "_probabilities"))
    return faults


def _claim(owners: dict[str, str], path: str, name: str, suffixes: tuple[str, ...]) -> list[tuple[str, str]]:
    columns = [name + suffix for suffix in suffixes]
    taken = [(column, owners[column]) for column in columns if column in owners]
    owners.update(dict.fromkeys(columns, path))
    return [(path, f"{owner} already has a column {column!r}; rename it") for column, owner in taken]


def _unsearchable(config: Config) -> list[tuple[str, str]]:
    """Settings of `tune.space` that do not exist, and values they cannot take.

    Rules between settings (heads divide hidden) are left to the trial, which knows all its values; so
    are the settings beside a `kind` that is searched too.
    """
    settings = config.model_dump(mode="json", exclude={"tune"})
    faults = []
    for dotted, space in config.tune.space.items():
        path = f"tune.space.{dotted}"
        if dotted.split(".")[0] not in ("model", "train"):
            faults.append((path, "only model.… and train.… settings are searched"))
            continue
        if f"{dotted.rpartition('.')[0]}.kind" in config.tune.space.keys() - {dotted}:
            continue
        for value in space.grid or space.choice or space.uniform or space.log_uniform or ():
            data, fault = set_at(settings, dotted, value)
            found = [fault] if fault else type_faults(data)
            faults += [(path, message if at == dotted else f"{at} {message}") for at, message in found]
    return merged(faults)


def type_faults(data: dict) -> list[tuple[str, str]]:
    try:
        Config.model_validate(with_tuples(data))
    except ValidationError as error:
        return [explain(fault) for fault in error.errors() if fault["type"] != "value_error"]
    return []
