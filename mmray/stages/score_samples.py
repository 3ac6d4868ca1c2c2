"""Trained models and any samples: which features the models read, and that they are made as theirs were.

    models, samples ──▶ OUTPUT/samples, OUTPUT/features/… ──▶ OUTPUT/predictions/MODEL      no config needed
    models, config  ──▶ the config's own samples and tables ──▶ OUTPUT/predictions/MODEL

A model's folder knows its features: same settings, same weights, by content; where a weights file has changed
since, or a config makes a feature in another way, it is refused by name. Labels are not needed; where the
samples have them, the predictions stand beside them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmray.config import Config, load_config
from mmray.config.samples import MEDIA_SOURCES
from mmray.errors import TableError
from mmray.samples.index import make_index
from mmray.samples.of_arrays import project_index
from mmray.stages.extract import extract
from mmray.storage.filesystem import Storage
from mmray.storage.uris import absolute
from mmray.tables.features import Data, require_data
from mmray.tables.identity import difference, feature_specs, require_same

__all__ = ["FEATURES", "Trained", "described", "open_project", "open_samples", "project_of", "trained_models"]

FEATURES = "features.json"
"""File of a model's folder that says how its features are made."""
WHOLE = ("features", "extract", "columns", "targets", "specs")


@dataclass(frozen=True)
class Trained:
    """A trained model: its folder, its fingerprint, and what its `features.json` says."""

    folder: str
    fingerprint: str
    told: dict[str, Any]


def described(config: Config, data: Data) -> dict[str, Any]:
    """What a model's folder keeps of its project, so that it can be applied to other samples."""
    return {
        "features": {name: feature.model_dump(mode="json") for name, feature in config.features.items()},
        "extract": config.extract.model_dump(mode="json", include={"decoder", "precision"}),
        "columns": config.samples.columns,
        "targets": {name: target.model_dump(mode="json") for name, target in config.targets.items()},
        "specs": {name: table.spec for name, table in data.tables.items()},
    }


def trained_models(models: Sequence[str], storage: Storage) -> list[Trained]:
    """The models in these folders, or in `model` in them.

    Raises:
        TableError: where there is none, or it does not say how its features are made.
    """
    found = []
    for model in models:
        folder = _model_folder(model, storage)
        told = storage.read_json(f"{folder}/{FEATURES}")
        if not isinstance(told, dict) or not told.keys() >= set(WHOLE):
            raise TableError(
                f"{folder}: does not say how its features are made (no whole {FEATURES}); train again"
            )
        told = {**told, "features": _unpacked(told["features"], folder)}
        found.append(Trained(folder, storage.read_json(f"{folder}/model.json")["fingerprint"], told))
    return found


def _unpacked(features: dict[str, Any], folder: str) -> dict[str, Any]:
    """Settings of features whose weights `mmray export` put into the model's folder, as paths there."""
    return {
        name: {
            key: f"{folder}/{value}"
            if isinstance(value, str) and value.startswith(f"encoders/{name}/")
            else value
            for key, value in settings.items()
        }
        for name, settings in features.items()
    }


def open_samples(
    models: Sequence[Trained], samples: str, output: str, address: str | None
) -> tuple[Config, list[Data]]:
    """Extract the models' features of these samples, each once; a config of that, and each model's data.

    Raises:
        TableError: where features cannot be made as they were, or two models make one in different ways.
        SamplesError: where the samples are not whole.
    """
    storage = Storage()
    source = {_kind_of_source(samples, storage): absolute(samples), "optional": list(MEDIA_SOURCES)}
    config = project_of(models, source, absolute(output))
    extract(config, address)
    index = make_index(config, storage)
    data = require_data(config, storage, index=index)
    return config, [_part(data, model) for model in models]


def project_of(models: Sequence[Trained], samples: dict[str, Any], output: str) -> Config:
    """A config that makes the features of these models.

    Raises:
        TableError: where they cannot be made here as they were, or two models differ in a feature or target.
    """
    first = models[0].told
    for model in models[1:]:
        for part in ("extract", "columns"):
            require_same(f"{model.folder}: its {part}", model.told[part], first[part], ONE_BY_ONE)
    config = load_config(
        {
            "output": output,
            "samples": {**samples, "columns": first["columns"]},
            "targets": _joined(models, "targets"),
            "features": _joined(models, "features"),
            "extract": first["extract"],
        }
    )
    for model in models:
        _require_features(config, model, "put back what made the features, or train again on these")
    return config


ONE_BY_ONE = "score with these models one after the other, into outputs of their own"


def _joined(models: Sequence[Trained], part: str) -> dict[str, Any]:
    """What all models say of their features (or targets), by name."""
    found: dict[str, Any] = {}
    for model in models:
        for name, own in model.told[part].items():
            if name in found and (fields := difference(found[name], own)):
                raise TableError(
                    f"{model.folder}: {part[:-1]} {name} is not that of {models[0].folder} "
                    f"({'; '.join(fields)}); {ONE_BY_ONE}"
                )
            found[name] = own
    return found


def open_project(config: Config, models: Sequence[Trained], storage: Storage) -> list[Data]:
    """Each model's data among a config's samples and complete tables.

    Raises:
        TableError: where the config lacks a feature of a model, makes it in another way, or has not made it.
    """
    for model in models:
        if lacking := [name for name in model.told["features"] if name not in config.features]:
            raise TableError(
                f"{model.folder}: reads {', '.join(lacking)}, which the config does not make; add it to "
                "features, or score by --model, --samples and --output"
            )
        _require_features(config, model, "make the feature as the model's was made")
    index = project_index(config, storage)
    wanted = list(dict.fromkeys(name for model in models for name in model.told["features"]))
    data = require_data(config, storage, wanted, index)
    return [_part(data, model) for model in models]


def _require_features(config: Config, model: Trained, remedy: str) -> None:
    """That the config makes the model's features as they were made; where imported ones come from is free."""
    own = [name for name, told in model.told["features"].items() if told["kind"] != "imported"]
    if not own:
        return
    made_with = {name: {**model.told["specs"][name], "environment": None} for name in own}
    here = {name: {**spec, "environment": None} for name, spec in feature_specs(config, own).items()}
    require_same(model.folder, made_with, here, remedy)


def _part(data: Data, model: Trained) -> Data:
    return replace(data, tables={name: data.tables[name] for name in model.told["features"]})


def _model_folder(model: str, storage: Storage) -> str:
    """The folder with `model.json`: the one named, or the `model` in it (that of a training)."""
    folder = absolute(model).rstrip("/")
    for candidate in (folder, f"{folder}/model"):
        if "model.json" in storage.names(candidate):
            return candidate
    raise TableError(f"{model}: no model here (no model.json)")


def _kind_of_source(samples: str, storage: Storage) -> str:
    """`shards`, `folder` or `manifest`, by what the path says and what is there."""
    if samples.endswith(".tar"):
        return "shards"
    is_file = bool(storage.infos(absolute(samples), pattern=True))
    return "manifest" if is_file or not storage.names(absolute(samples)) else "folder"
