"""Where a feature's weights are, as local files, and which they are, as a short string.

The string is part of the fingerprint of what the weights make. Weights on s3:// are copied once to each
machine.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping

from mmray.errors import TableError
from mmray.features.kinds import Feature, kind_of
from mmray.storage.filesystem import Storage
from mmray.storage.scratch import kept
from mmray.storage.uris import parent, scheme_of

__all__ = ["local_weights", "weights_fingerprint", "with_local_weights"]


def with_local_weights(features: Mapping[str, Feature], storage: Storage) -> dict[str, Feature]:
    """The features with weights from s3:// in local copies."""
    return {name: _with_local_weights(feature, storage) for name, feature in features.items()}


def _with_local_weights(feature: Feature, storage: Storage) -> Feature:
    field = kind_of(feature).weights
    if field is None or scheme_of(getattr(feature, field)) != "s3":
        return feature
    return feature.model_copy(update={field: local_weights(getattr(feature, field), storage)})


def local_weights(uri: str, storage: Storage) -> str:
    """A file or folder on s3:// as a local copy, made once a machine for each version of it.

    Raises:
        TableError: where there is no such file or folder.
        StorageError: where storage refuses.
    """
    folder_uri = uri.rstrip("/")
    infos = storage.infos(folder_uri) or storage.find(folder_uri)
    if not infos:
        raise TableError(f"{uri}: no such weights file or model folder")
    version = hashlib.sha256(repr([(file, info["ETag"]) for file, info in infos.items()]).encode())
    home = kept("weights")
    copy = os.path.join(home, version.hexdigest()[:16])
    if not os.path.exists(copy):
        with tempfile.TemporaryDirectory(dir=home) as folder:
            for file in infos:
                storage.copy_file(file, f"{folder}/copy/{file.removeprefix(parent(folder_uri))}")
            try:
                os.rename(f"{folder}/copy", copy)
            except OSError:
                if not os.path.exists(copy):  # else another process was first
                    raise
    return os.path.join(copy, folder_uri.rpartition("/")[2])


def weights_fingerprint(weights: str, seed: int = 0) -> str:
    """`random:SEED`, `default`, `sha256:…` of a file or of a folder's files, else the hub id itself.

    Raises:
        TableError: where a path is not there.
    """
    if weights == "random":
        return f"random:{seed}"
    if weights == "default":
        return weights
    path = os.path.expanduser(weights)
    if os.path.isfile(path):
        return f"sha256:{_digest([path])}"
    if os.path.isdir(path):
        return f"sha256:{_digest(sorted(entry.path for entry in os.scandir(path) if entry.is_file()))}"
    if path.startswith((".", "/", "~")) or path.endswith((".pt", ".pth", ".bin", ".safetensors")):
        raise TableError(f"{weights}: no such weights file or model folder")
    return weights


def _digest(paths: list[str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.path.basename(path).encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
