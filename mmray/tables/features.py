"""The feature tables of a project: which there are, which are complete, and what is still to be made.

A feature of a config has one table, in the folder `features/NAME-FINGERPRINT`. It is complete for an index
when every sample has a row made from the media it has now. A complete table may come from a machine with
other libraries or decoders than this one (the environment in its spec says which); one that is still to be
made, in whole or in part, is made by one environment alone.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmray.config import Config
from mmray.errors import TableError
from mmray.samples.index import Index, known_index
from mmray.storage.filesystem import Storage
from mmray.tables.accounting import failed_rows, notes_of
from mmray.tables.identity import (
    data_digest,
    difference,
    environment,
    feature_specs,
    hash_of,
    media_digest,
    media_keys,
)
from mmray.tables.parts import digest_of_partitions, done_partitions, in_parallel, read_with_notes

__all__ = ["Data", "FeatureTable", "PartState", "complete_tables", "require_data", "states", "tables_to_make"]


@dataclass(frozen=True)
class FeatureTable:
    """One feature's table: where it is and what makes it."""

    name: str
    source: str
    """The column of the index it is made from; `features` where it is made elsewhere."""
    spec: dict[str, Any]
    """With the `environment`; the fingerprint is its hash."""
    root: str
    """The folder of all feature tables."""
    summary: dict[str, Any] | None = None
    """Of a complete table."""

    @property
    def fingerprint(self) -> str:
        """Of the spec."""
        return hash_of(self.spec)

    @property
    def folder(self) -> str:
        """Where its part files are."""
        return f"{self.root}/{self.name}-{self.fingerprint}"


def complete_tables(
    config: Config, storage: Storage, index: Index, features: Sequence[str] | None = None
) -> dict[str, FeatureTable]:
    """{feature: its table} of these features (all, where none are named) whose table is complete.

    Raises:
        TableError: where weights are not there, or two complete tables differ in their environment only.
    """
    root = config.path("features")
    there = storage.names(root)
    found = {}
    for name, spec in feature_specs(config, features, index.split_digest).items():
        source = config.features[name].source
        for folder in sorted(folder for folder in there if folder.rpartition("-")[0] == name):
            summary = storage.read_json(f"{root}/{folder}/_summary.json")
            if summary is None or summary["media"] != index.media_digest(source):
                continue
            made_with = storage.read_json(f"{root}/{folder}/_spec.json")
            if {**made_with, "environment": None} != {**spec, "environment": None}:
                continue
            if not _by_decoder(config.extract.decoder, made_with["environment"].get("decoders", {})):
                continue
            table = FeatureTable(name, source, made_with, root, summary)
            if name in found:
                found[name] = _of_here(config, found[name], table)
            else:
                found[name] = table
    return found


def _by_decoder(setting: str, decoders: Mapping[str, str]) -> bool:
    """Whether these decoders are those that the setting allows; `auto` allows any."""
    sound = "torchcodec" if setting == "torchcodec" else "pyav"
    allowed = {"frames": setting, "sound": sound}
    return setting == "auto" or all(decoders.get(what, name) == name for what, name in allowed.items())


def _of_here(config: Config, *tables: FeatureTable) -> FeatureTable:
    """Of tables that differ in their environment the one that would be made here."""
    name = tables[0].name
    for table in tables:
        device = table.spec["environment"].get("device", "cpu")
        if table.spec["environment"] == environment(config, config.features[name], device):
            return table
    fields = "; ".join(difference(tables[0].spec, tables[1].spec))
    raise TableError(
        f"feature {name} has several complete tables that differ in {fields}, and none was made as it would "
        f"be here; delete one of {', '.join(table.folder for table in tables)}"
    )


def tables_to_make(
    config: Config, features: Sequence[str], device: str, splits: str
) -> dict[str, FeatureTable]:
    """{feature: the table that this environment makes}; `splits` as in `feature_specs`.

    Raises:
        ConfigError: where the decoder asked for does not work here.
        TableError: where weights are not there.
    """
    return {
        name: FeatureTable(
            name,
            config.features[name].source,
            {**spec, "environment": environment(config, config.features[name], device)},
            config.path("features"),
        )
        for name, spec in feature_specs(config, features, splits).items()
    }


# ------------------------------------------------------------------------------------ what is there


@dataclass(frozen=True)
class PartState:
    """How far a partition of a feature's table is."""

    notes: dict[str, Any] | None
    """As in the footer, of the rows of the index; None where the partition is not complete."""
    todo: np.ndarray
    """[rows of the partition in the index] bool: which are to be made."""

    @property
    def done(self) -> bool:
        """Whether nothing is to be made."""
        return self.notes is not None


def states(storage: Storage, index: Index, table: FeatureTable, there: Sequence[int]) -> Iterator[PartState]:
    """The state of every partition of the index, in order; `there` are the part files of the table.

    Read are the footers; ids and keys only of the partitions in which something differs.
    """
    known, media = set(there), index.media[table.source]

    def state(at: int) -> PartState:
        partition, size = int(index.partitions[at]), int(index.sizes[at])
        if partition not in known:
            return PartState(None, np.ones(size, bool))
        _, notes = read_with_notes(storage, table.folder, partition, [])
        if notes["media"] == media[at]:
            return PartState(notes, np.zeros(size, bool))
        return state_of(storage, table, partition, index.read(storage, partition))

    return in_parallel(state, range(len(index.partitions)))


def state_of(
    storage: Storage, table: FeatureTable, partition: int, samples: pa.Table, *, retry: bool = False
) -> PartState:
    """The state of one partition whose part file is there; with `retry` failed rows are to be made again."""
    keys = media_keys(samples, [table.source])
    small = ["sample_id", "media_key", f"{table.name}_length", "error"]
    rows, notes = read_with_notes(storage, table.folder, partition, small)
    same = notes["media"] == media_digest(samples["sample_id"], keys)
    places = np.arange(samples.num_rows) if same else places_of(samples["sample_id"], rows["sample_id"])
    found = rows.take(pa.array(np.maximum(places, 0)))
    todo = (places < 0) | ~pc.equal(found["media_key"], pa.array(keys, pa.string())).to_numpy()
    if not todo.any() and not same:
        notes = {**notes, **notes_of(found, table.name), "rows": samples.num_rows}
    if retry:
        todo |= failed_rows(found)
    return PartState(None if todo.any() else notes, todo)


def places_of(ids: pa.ChunkedArray, among: pa.ChunkedArray) -> np.ndarray:
    """Where each id stands among others, [N] int64; -1: nowhere."""
    return pc.fill_null(pc.index_in(ids, value_set=among), -1).to_numpy().astype(np.int64)


# ------------------------------------------------------------------------------------ what is used


@dataclass(frozen=True)
class Data:
    """The index and the complete tables of some features: all that a training, or a scoring, reads."""

    index: Index
    tables: dict[str, FeatureTable]
    contents: dict[str, str]
    """{feature: digest of the partitions in which some sample has a split and a label}"""

    @classmethod
    def of(cls, storage: Storage, index: Index, tables: dict[str, FeatureTable]) -> "Data":
        """Of complete tables."""
        trained = index.partitions[index.trained]
        contents = {n: digest_of_partitions(storage, table.folder, trained) for n, table in tables.items()}
        return cls(index, tables, contents)

    @property
    def digest(self) -> str:
        """Changes when an id, split, group, label or feature does that a training uses.

        A sample without a split or a label is neither; other samples of its partition are seen to change
        with it, since a partition is the smallest part that has a digest.
        """
        return data_digest(
            self.index.trained_digest, {name: self.contents[name] for name in sorted(self.tables)}
        )

    @property
    def whole_digest(self) -> str:
        """Changes when anything of any sample does."""
        contents = {name: self._summary(name)["content"] for name in sorted(self.tables)}
        return data_digest(self.index.digest, contents)

    @property
    def fingerprints(self) -> dict[str, str]:
        """{feature: fingerprint of its table}."""
        return {name: table.fingerprint for name, table in sorted(self.tables.items())}

    def steps(self, feature: str) -> int:
        """Steps of all samples together."""
        return self._summary(feature)["steps"]

    def _summary(self, feature: str) -> Mapping[str, Any]:
        summary = self.tables[feature].summary
        assert summary is not None, "the table is complete"
        return summary


def require_data(
    config: Config, storage: Storage, features: Sequence[str] | None = None, index: Index | None = None
) -> Data:
    """The complete tables of these features (all, where none are named).

    Raises:
        TableError: where there is no index, or a feature has no complete table.
    """
    index = index or known_index(config, storage)
    wanted = list(features if features is not None else config.features)
    found = complete_tables(config, storage, index, wanted)
    if lacking := [name for name in wanted if name not in found]:
        raise TableError(
            f"{config.path('features')}: no complete table of {', '.join(lacking)} for these samples, "
            f"media and settings; run `mmray {_command(config, lacking)}` first"
        )
    return Data.of(storage, index, {name: found[name] for name in wanted})


def _command(config: Config, features: Sequence[str]) -> str:
    imported = all(config.features[name].kind == "imported" for name in features)
    return "import-features" if imported else "extract"


def done_by_feature(storage: Storage, tables: Mapping[str, FeatureTable]) -> dict[str, list[int]]:
    """{feature: numbers of the part files in its table}."""
    return {name: done_partitions(storage, table.folder) for name, table in tables.items()}
