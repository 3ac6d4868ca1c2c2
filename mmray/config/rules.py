"""What types cannot say: names that point to nothing, columns that clash, searches that cannot be."""

from pydantic import ValidationError

from mmray.config.explain import did_you_mean, explain, merged
from mmray.config.samples import MEDIA_SOURCES
from mmray.config.schema import Config
from mmray.config.search import space_faults
from mmray.config.values import assign, with_tuples
from mmray.features.kinds import kind_of

__all__ = ["broken_rules"]


def broken_rules(config: Config) -> list[tuple[str, str]]:
    """Names that point to nothing, and settings that contradict each other."""
    faults = []
    for name in config.model.inputs.keys() - config.features.keys():
        hint = did_you_mean(name, config.features)
        faults.append((f"model.inputs.{name}", f"no feature has this name{hint}"))
    for name in config.model.encoders:
        if name not in config.features:
            hint = did_you_mean(name, config.features)
            faults.append((f"model.encoders.{name}", f"no feature has this name{hint}"))
    faults += _clashing(config)
    imported = {name for name, feature in config.features.items() if kind_of(feature).takes is None}
    if not isinstance(config.samples.manifest, str):
        faults += [
            (f"features.{name}.path", "is required where samples.manifest is not a single file")
            for name in sorted(imported)
            if not getattr(config.features[name], "path", None)
        ]
    if config.train.monitor != "loss":
        target, _, metric = config.train.monitor.partition("/")
        if target not in config.targets:
            hint = did_you_mean(target, config.targets)
            faults.append(("train.monitor", f"no target is named {target!r}{hint}"))
        elif metric not in config.targets[target].metric_names:
            allowed = ", ".join(f"{target}/{m}" for m in config.targets[target].metric_names)
            faults.append(("train.monitor", f"must be loss or one of {allowed}"))
    if isinstance(config.train.loss_weights, dict):
        for name in config.train.loss_weights.keys() - config.targets.keys():
            hint = did_you_mean(name, config.targets)
            faults.append((f"train.loss_weights.{name}", f"no target has this name{hint}"))
    for name, option in config.score.targets_named.items():
        if name not in config.targets and config.targets and not config.score.models:
            hint = did_you_mean(name, config.targets)
            faults.append((f"score.{option}.{name}", f"no target has this name{hint}"))
    return faults + space_faults(config) + _incomparable(config)


def _clashing(config: Config) -> list[tuple[str, str]]:
    """Columns of the sample, feature and prediction tables that two names would share."""
    owners: dict[str, str] = dict.fromkeys(("sample_id", "split", "group", "error", "errors"), "every table")
    faults = []
    for name, feature in config.features.items():
        faults += _claim(owners, f"features.{name}", name, kind_of(feature).columns)
    owners |= dict.fromkeys(("start_s", "end_s", "media_key", *MEDIA_SOURCES), "the sample table")
    owners |= dict.fromkeys((f"{medium}_version" for medium in MEDIA_SOURCES), "the sample table")
    owners |= dict.fromkeys(("present", "model", "embedding"), "the prediction table")
    for name in config.targets:
        faults += _claim(
            owners, f"targets.{name}", name, ("", "_predicted", "_probabilities", "_top", "_spread")
        )
    for name in config.samples.keep:
        faults += _claim(owners, "samples.keep", name, ("",))
    return faults


def _claim(owners: dict[str, str], path: str, name: str, suffixes: tuple[str, ...]) -> list[tuple[str, str]]:
    columns = [name + suffix for suffix in suffixes]
    taken = [(column, owners[column]) for column in columns if column in owners]
    owners.update(dict.fromkeys(columns, path))
    return [(path, f"{owner} already has a column {column!r}; rename it") for column, owner in taken]


def _incomparable(config: Config) -> list[tuple[str, str]]:
    """Models and variants of `compare` that are no model: unknown features, settings, values."""
    settings = config.model_dump(mode="json", exclude={"tune", "compare"})
    models = {f"models.{name}": dict(changes) for name, changes in config.compare.models.items()}
    variants = {f"variants.{i}": dict(changes) for i, changes in enumerate(config.compare.variants)}
    faults = []
    if config.compare.folds and not config.samples.split.folds:
        faults.append(("compare.folds", "needs samples.split.folds: into how many the samples are drawn"))
    in_context = [name for name, feature in config.features.items() if getattr(feature, "context", None)]
    if config.compare.folds and in_context:
        told = "is for features that are the same in every fold; the context of a sample ends at its split: "
        faults.append(("compare.folds", f"{told}{', '.join(in_context)}"))
    for where, changes in models.items():
        features = changes.pop("features", list(config.features))
        if not isinstance(features, list) or not features or not {*features} <= config.features.keys():
            known = ", ".join(config.features)
            faults.append((f"compare.{where}.features", f"must be a list of some of {known}, got {features}"))
    for where, changes in {**models, **variants}.items():
        if strange := [key for key in changes if key.split(".")[0] not in ("model", "train")]:
            told = f"{', '.join(strange)}: only model.… and train.… settings are compared"
            faults.append((f"compare.{where}", told))
    for where, changes in variants.items():
        if "train.monitor" in changes:
            faults.append((f"compare.{where}", "train.monitor is what the variants of a model are chosen by"))
    if faults:
        return faults
    for where, changes in models.items() or {"models": {}}.items():
        data, unset = assign(settings, changes.items())
        found = unset or _all_faults(data)
        faults += [(f"compare.{where}", f"{at} {message}") for at, message in found]
        for variant, more in variants.items() if not found else ():
            varied, unset = assign(data, more.items())
            told = [f"{at} {message}" for at, message in unset or _all_faults(varied)]
            faults += [(f"compare.{variant}", f"with {where}: {message}") for message in told]
    return merged(faults)


def _all_faults(data: dict) -> list[tuple[str, str]]:
    try:
        Config.model_validate(with_tuples(data))
    except ValidationError as error:
        return [explain(fault) for fault in error.errors()]
    return []
