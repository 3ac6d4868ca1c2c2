"""What features were made with, as a readable spec and a short hash: unlike features never mix.

Two feature tables have the same fingerprint when the same settings, weights and decoders made them. The
spec is stored beside the table, so that a difference can be named by its field.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mmray.config import Config
from mmray.decode.choice import choose_decoders, decoder_versions
from mmray.errors import TableError
from mmray.features.imported import ImportedFeature
from mmray.features.kinds import kind_of
from mmray.features.weights import weights_fingerprint, with_local_weights
from mmray.storage.filesystem import Storage
from mmray.tables.parts import done_partitions
from mmray.tables.schemas import SCHEMA_VERSION

__all__ = ["difference", "feature_spec", "hash_of", "require_same"]

LIBRARIES = ("torch", "torchaudio", "torchvision", "transformers")


def feature_spec(config: Config, made_with: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The feature table's spec: settings and weights of every feature, decoders, schema version.

    `made_with` is the spec of a finished table, which this machine need not be able to make: its versions
    are taken over, and its decoders where `extract.decoder` allows them. Without it, they are those of here.

    Raises:
        ConfigError: where the decoder asked for does not work here.
        TableError: where weights are not there.
    """
    features = {}
    for name, feature in with_local_weights(config.features, Storage(config.storage)).items():
        features[name] = feature.model_dump(mode="json")
        if field := kind_of(feature).weights:
            features[name][field] = weights_fingerprint(getattr(feature, field), getattr(feature, "seed", 0))
        elif isinstance(feature, ImportedFeature):
            features[name]["path"] = _content_of(config, config.imported_from(feature))
    return {
        "schema_version": SCHEMA_VERSION,
        "features": features,
        "decoders": _decoders(config.extract.decoder, made_with),
        "libraries": made_with["libraries"] if made_with else _versions(LIBRARIES),
    }


def _decoders(setting: str, made_with: Mapping[str, Any] | None) -> dict[str, Any]:
    if made_with is None:
        return decoder_versions(choose_decoders(setting))
    made = made_with["decoders"]
    return made if setting in ("auto", made.get("frames")) else {**made, "frames": setting}


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


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}
