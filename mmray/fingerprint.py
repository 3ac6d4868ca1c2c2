"""What features were made with, as a readable spec and a short hash: unlike features never mix.

Two feature tables have the same fingerprint when the same settings, weights and decoders made them. The
spec is stored beside the table, so that a difference can be named by its field.
"""

import hashlib
import importlib.metadata
import json
from typing import Any

from mmray.config import Config, FramesFeature, ImportedFeature, TextFeature
from mmray.encode.weights import weights_fingerprint
from mmray.errors import TableError
from mmray.partitions import done_partitions
from mmray.storage import Storage
from mmray.tables import SCHEMA_VERSION

__all__ = ["difference", "feature_spec", "hash_of", "require_same"]

DECODERS = ("decord", "av", "pillow")


def feature_spec(config: Config) -> dict[str, Any]:
    """The feature table's spec: settings and weights of every feature, decoders, schema version."""
    features = {}
    for name, feature in config.features.items():
        features[name] = feature.model_dump(mode="json")
        if isinstance(feature, FramesFeature):
            weights = weights_fingerprint(feature.weights, feature.seed)
            features[name]["weights"] = weights
        elif isinstance(feature, TextFeature):
            features[name]["model"] = weights_fingerprint(feature.model)
        elif isinstance(feature, ImportedFeature):
            features[name]["path"] = _content_of(config, config.imported_from(feature))
    return {
        "schema_version": SCHEMA_VERSION,
        "features": features,
        "decoders": {name: _version(name) for name in DECODERS},
    }


def _content_of(config: Config, source: str) -> str:
    """What an imported feature was read from: a file's sha256, or a feature table's own fingerprints.

    Raises:
        StorageError, TableError: where it is not there, or not finished.
    """
    storage = Storage(config.storage)
    if done_partitions(storage, source):
        made_with, summary = (storage.read_json(f"{source}/_{what}.json") for what in ("spec", "summary"))
        if made_with is None or summary is None:
            raise TableError(f"{source}: there is no finished feature table here")
        return f"table:{made_with['fingerprint']}:{summary.get('samples')}"
    filesystem, path = storage.filesystem(source)
    with storage.faults(source), filesystem.open(path, "rb") as opened:
        return f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()[:16]}"  # pyright: ignore


def hash_of(value: Any) -> str:
    """A short stable hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def difference(old: Any, new: Any, path: str = "") -> list[str]:
    """The fields in which two specs differ, as `features.face.frames: 8 → 16`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [
            line
            for key in keys
            for line in difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if old == new else [f"{path}: {json.dumps(old)} → {json.dumps(new)}"]


def require_same(what: str, old: dict[str, Any], new: dict[str, Any], remedy: str) -> None:
    """Refuse to mix features of two specs.

    Raises:
        TableError: naming every field that differs.
    """
    if fields := difference(old, new):
        lines = "\n".join(f"  {field}" for field in fields)
        raise TableError(f"{what} was made with other settings:\n{lines}\n{remedy}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
