"""Which weights a network has, as a short string: part of the fingerprint of what it makes."""

import hashlib
import os

from mmray.errors import TableError

__all__ = ["weights_fingerprint"]


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
