"""A config → the same one for other machines' workers: local paths are absolute."""

import os
from typing import Any

from mmray.config.features import WEIGHTS_FIELD
from mmray.config.load import override
from mmray.config.schema import Config
from mmray.storage.uris import absolute

__all__ = ["absolute_paths"]


def absolute_paths(config: Config) -> Config:
    """Local paths of a config made absolute: a worker's working directory is another.

    Weights and models are paths where there is such a file or folder, else names.
    """
    paths: dict[str, Any] = {"output": config.output}
    for key in ("manifest", "shards", "folder"):
        if given := getattr(config.samples, key):
            paths[f"samples.{key}"] = given
    if config.train.initialize_from:
        paths["train.initialize_from"] = config.train.initialize_from
    for name, feature in config.features.items():
        field = "path" if feature.kind == "imported" else WEIGHTS_FIELD.get(feature.kind)
        path = getattr(feature, field) if field else None
        if path and os.path.exists(os.path.expanduser(path)):
            paths[f"features.{name}.{field}"] = path
    return override(
        config,
        {
            dotted: [absolute(each) for each in path] if isinstance(path, list) else absolute(path)
            for dotted, path in paths.items()
        },
    )
