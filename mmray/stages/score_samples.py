"""A model folder and any samples in, predictions out: no config is needed, the model knows its features.

    samples ──▶ OUTPUT/samples, OUTPUT/features/… ──▶ OUTPUT/predictions/MODEL

The features are made as the model's were: same settings, same weights, by content; where a weights file has
changed since, it is refused by name. Labels are not needed; where the samples have them, the predictions
stand beside them.
"""

from typing import Any

from mmray.config import Config, load_config
from mmray.config.samples import MEDIA_SOURCES
from mmray.errors import TableError
from mmray.samples.index import make_index
from mmray.stages.extract import extract
from mmray.storage.filesystem import Storage
from mmray.storage.uris import absolute
from mmray.tables.features import Data, require_data
from mmray.tables.identity import feature_specs, require_same

__all__ = ["FEATURES", "described", "open_samples"]

FEATURES = "features.json"
"""File of a model's folder that says how its features are made."""
WHOLE = ("features", "extract", "columns", "targets", "specs")


def described(config: Config, data: Data) -> dict[str, Any]:
    """What a model's folder keeps of its project, so that it can be applied to other samples."""
    return {
        "features": {name: feature.model_dump(mode="json") for name, feature in config.features.items()},
        "extract": config.extract.model_dump(mode="json", include={"decoder", "precision"}),
        "columns": config.samples.columns,
        "targets": {name: target.model_dump(mode="json") for name, target in config.targets.items()},
        "specs": {name: table.spec for name, table in data.tables.items()},
    }


def open_samples(model: str, samples: str, output: str, address: str | None) -> tuple[Config, str, Data]:
    """Extract a model's features of these samples; a config of that, the model's folder, and the tables.

    Raises:
        TableError: where there is no such model, or its features cannot be made as they were.
        SamplesError: where the samples are not whole.
    """
    storage = Storage()
    folder = _model_folder(model, storage)
    told = storage.read_json(f"{folder}/{FEATURES}")
    if not isinstance(told, dict) or not told.keys() >= set(WHOLE):
        raise TableError(
            f"{folder}: does not say how its features are made (no whole {FEATURES}); train again"
        )
    project = {
        "output": absolute(output),
        "samples": {
            _kind_of_source(samples, storage): absolute(samples),
            "columns": told["columns"],
            "optional": list(MEDIA_SOURCES),
        },
        "targets": told["targets"],
        "features": told["features"],
        "extract": told["extract"],
    }
    config = load_config(project)
    made_with = {name: {**spec, "environment": None} for name, spec in told["specs"].items()}
    here = {name: {**spec, "environment": None} for name, spec in feature_specs(config).items()}
    require_same(folder, made_with, here, "put back what made the features, or train again on these")
    extract(config, address)
    return config, folder, require_data(config, storage, index=make_index(config, storage))


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
