"""Every hash and every name: what a feature, a row, the data and a run are known by.

    feature    NAME-FINGERPRINT: its settings, weights and code, and the environment that computes it
    row        media_key: the URIs, versions, segment or text that a feature of a sample is made from
    data       the index (ids, splits, groups, labels) and the content of the feature tables used
    run        the settings that decide a training, and its data

Two feature tables have the same fingerprint when the same settings, weights, code and environment made
them; the spec it is the hash of lies beside the table, so that a difference can be named by its field. A
setting that decides no result is marked `FREE` in the schema, and nowhere else.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmray.config import Config
from mmray.decode.choice import choose_decoders, decoder_versions
from mmray.errors import TableError
from mmray.features.imported import ImportedFeature
from mmray.features.kinds import Feature, kind_of
from mmray.features.weights import weights_fingerprint, with_local_weights
from mmray.samples.arrays import source_files, table_folder
from mmray.settings import deciding
from mmray.storage.filesystem import Storage
from mmray.tables.parts import done_partitions
from mmray.tables.schemas import SCHEMA_VERSION, version_of

__all__ = [
    "data_digest",
    "difference",
    "environment",
    "feature_specs",
    "hash_of",
    "media_digest",
    "media_keys",
    "require_same",
    "run_name",
    "search_name",
]

TRAINING_VERSION = 3
"""Raised when the same settings train another model, or are judged in another way, than before."""
FEATURE_VERSION = 2
"""Raised when the same settings give other numbers than before."""


# ------------------------------------------------------------------------------------ features


def feature_specs(
    config: Config, features: Iterable[str] | None = None, splits: str | None = None
) -> dict[str, dict[str, Any]]:
    """{feature: its spec}: settings, weights, code and version; not the environment that computes it.

    `splits` is the digest of which sample is in which split: the context of a sample ends at its split.

    Raises:
        TableError: where weights or a source of imported features are not there.
        ConfigError: where a package that a feature names is not there.
    """
    wanted = {name: config.features[name] for name in features or config.features}
    local = with_local_weights(wanted, Storage(config.storage))
    return {name: _spec(config, name, feature, splits) for name, feature in local.items()}


def _spec(config: Config, name: str, feature: Feature, splits: str | None) -> dict[str, Any]:
    kind = kind_of(feature)
    spec: dict[str, Any] = {"version": [SCHEMA_VERSION, FEATURE_VERSION], "settings": deciding(feature)}
    if kind.weights:
        weights = weights_fingerprint(getattr(feature, kind.weights), getattr(feature, "seed", 0))
        spec["settings"][kind.weights] = weights
    if isinstance(feature, ImportedFeature):
        spec["settings"]["path"] = _content_of(config, config.imported_from(feature), feature.array or name)
        if feature.context:
            spec["splits"] = splits
    if kind.encoder:
        spec["precision"] = config.extract.precision
    if kind.code and ":" in (code := getattr(feature, kind.code)):
        spec["code"] = _code_of(code)
    return spec


def _code_of(encoder: str) -> dict[str, str]:
    """Which code `package.module:function` is: its package's version, a hash of its module's source."""
    module = encoder.partition(":")[0]
    package = module.partition(".")[0]
    versions = importlib.metadata.packages_distributions().get(package, [])
    code = {name: importlib.metadata.version(name) for name in sorted(set(versions))}
    found = importlib.util.find_spec(module)  # None: the encoder itself says that there is none
    source = Path(found.origin).read_bytes() if found and found.origin and found.has_location else b""
    return {**code, "source": hashlib.sha256(source).hexdigest()[:16]}


def environment(config: Config, feature: Feature, device: str) -> dict[str, Any]:
    """What computes a feature here: decoders where it decodes, the libraries its kind uses, the device class.

    Raises:
        ConfigError: where the decoder asked for does not work here.
    """
    found: dict[str, Any] = {}
    if feature.source in ("video", "audio", "image"):
        versions = decoder_versions(choose_decoders(config.extract.decoder))
        used = {"image": ("pillow",), "audio": ("sound", "av", "torchcodec")}.get(feature.source)
        found["decoders"] = {name: versions[name] for name in used or versions if name in versions}
        if found["decoders"].get("sound") == "pyav":
            found["decoders"].pop("torchcodec", None)
    kind = kind_of(feature)
    if libraries := {*kind.libraries, *feature.packages()}:
        found["libraries"] = {name: importlib.metadata.version(name) for name in sorted(libraries)}
    if kind.encoder and kind.weights and kind.libraries:
        found["device"] = device
    return found


def _content_of(config: Config, source: str, name: str) -> str:
    """What an imported feature was read from: the sha256 of its files, or a feature table's own fingerprint.

    Raises:
        StorageError, TableError: where it is not there, or not finished.
    """
    storage = Storage(config.storage)
    source = table_folder(source, name, storage)
    if done_partitions(storage, source):
        summary = storage.read_json(f"{source}/_summary.json")
        if summary is None:
            raise TableError(f"{source}: there is no finished feature table here")
        return f"table:{summary['fingerprint']}:{summary['content']}"
    files = [uri for uris in source_files(source, storage).values() for uri in uris]
    digests = []
    for uri in files:
        filesystem, path = storage.filesystem(uri)
        with storage.faults(uri), filesystem.open(path, "rb") as opened:
            digests.append(hashlib.file_digest(opened, "sha256").hexdigest())  # pyright: ignore
    content = (
        digests[0] if len(digests) == 1 else hash_of([[uri.rpartition("/")[2] for uri in files], digests])
    )
    return f"sha256:{content[:16]}"


# ------------------------------------------------------------------------------------ rows


def media_keys(samples: pa.Table, sources: Sequence[str]) -> list[str]:
    """For each sample a hash of its media of these sources: URIs, versions and segment, or the text.

    `audio` stands for the video where a sample has no `audio`. Features made elsewhere (source `features`)
    depend on nothing of a sample but its id: their key is empty.
    """
    if not set(sources) - {"features"}:
        return [""] * samples.num_rows
    read: list[str] = [*sources, *(["video"] if "audio" in sources and "video" not in sources else [])]
    columns = [name for name in read if name in samples.column_names]
    segment = ["start_s", "end_s"] if set(columns) - {"text"} else []
    keys = []
    versions = [name for name in map(version_of, columns) if name in samples.column_names]
    of_rows = zip(samples.select([*columns, *segment]).to_pylist(), samples.select(versions).to_pylist())
    for row, seen in of_rows:
        if list(sources) == ["audio"] and row.get("audio") is not None:
            row["video"] = seen[version_of("video")] = None  # not read
        made_from = [*row.values(), *(version for version in seen.values() if version is not None)]
        keys.append(hashlib.blake2b(repr(made_from).encode("utf-8", "surrogatepass"), digest_size=8))
    return [key.hexdigest() for key in keys]


def media_digest(ids: pa.ChunkedArray, keys: Sequence[str]) -> str:
    """64 bits that change when an id, what its features are made from, or the order of the rows does."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(repr([ids.to_pylist(), list(keys)]).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


# ------------------------------------------------------------------------------------ data and runs


def data_digest(index: str, contents: Mapping[str, str]) -> str:
    """The data of a run: a digest of samples and their labels, and {feature: digest of its values}.

    A training's are those of the samples that have a split and a label: it learns from them or is judged by
    them. Rows to be scored come and go without making another run of it.
    """
    return hash_of({"index": index, "features": dict(contents)})


def run_name(config: Config, data: str, initialize_from: str | None = None) -> str:
    """A name that follows from all that decides a training.

    `data` is its `data_digest`, `initialize_from` the fingerprint of the model it starts from.
    """
    model = deciding(config.model)
    decides = {
        "version": TRAINING_VERSION,
        "targets": {name: deciding(target) for name, target in config.targets.items()},
        "features": sorted(config.features),
        "model": {**model, "encoders": {n: e for n, e in model["encoders"].items() if n in config.features}},
        "train": {**deciding(config.train), "initialize_from": initialize_from},
    }
    return hash_of({**decides, "data": data})


def search_name(config: Config, data: str, initialize_from: str | None = None) -> str:
    """A name that follows from all that decides a search: the training it varies, and the search itself."""
    return hash_of({"run": run_name(config, data, initialize_from), "search": deciding(config.tune)})


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
    """Refuse to mix what was made by two specs.

    Raises:
        TableError: naming every field that differs.
    """
    if fields := difference(old, new):
        lines = "\n".join(f"  {field}" for field in fields)
        raise TableError(f"{what} was made with other settings:\n{lines}\n{remedy}")
