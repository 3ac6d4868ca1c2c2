"""Raw rows of a source → samples in our columns and types; all faults of all rows in one error.

Ids are compared by 64-bit hashes (8 bytes a row), and by name only where two hashes meet.
"""

import contextlib
import hashlib
import math
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mmray.config import Config, SplitConfig
from mmray.errors import SamplesError
from mmray.samples.labels import LabelColumn, label, number
from mmray.samples.raw import RawRow
from mmray.samples.sources import Source
from mmray.storage.filesystem import Storage
from mmray.storage.uris import SCHEMES, join, scheme_of

__all__ = ["SPLITS", "CheckedRows", "plan_sources", "split_of"]

SPLITS = ("train", "val", "test")
MAX_FAULTS_SHOWN = 20


class CheckedRows:
    """Iterates over the samples of a source; raises with all faults after the last row.

    After the first fault no more samples come: what was made of them is not a whole plan.

    Raises:
        SamplesError: listing what is wrong.

    """

    def __init__(self, config: Config, storage: Storage, source: Source):
        self.config = config
        self.storage = storage
        self.source = source
        self.damage: list[str] = []
        """Faults of shards that `samples.allow_damaged_shards` lets pass."""
        self.notes: list[str] = []
        """What is odd about the labels, though they can be read."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        config = self.config
        theirs = {ours: config.samples.columns.get(ours, ours) for ours in _our_columns(config)}
        seen_columns: set[str] = set()
        faults: list[str] = []
        fault_count = 0
        hashes = array("Q")
        given_split = drawn_split = False
        labels = {name: LabelColumn(name, target) for name, target in config.targets.items()}

        for raw in self.source.rows(self.storage):
            if raw.fault and config.samples.allow_damaged_shards:
                self.damage.append(f"{raw.where}: {raw.fault}")
                continue
            seen_columns.update(raw.values)
            row, row_faults = ({}, [raw.fault]) if raw.fault else _convert(raw, theirs, labels)
            if row_faults:
                fault_count += len(row_faults)
                faults += [f"{raw.where}: {fault}" for fault in row_faults][: MAX_FAULTS_SHOWN - len(faults)]
                continue
            given_split |= row["split"] is not None
            drawn_split |= theirs["split"] not in raw.values
            hashes.append(_hash(row["sample_id"]))
            if not fault_count:
                if theirs["split"] not in raw.values:
                    row["split"] = split_of(row["sample_id"], config.samples.split)
                yield row

        missing = _missing_columns(config, theirs, seen_columns) if seen_columns else []
        for column in labels.values():
            missing += column.faults()
            self.notes += column.notes()
        if seen_columns and theirs["sample_id"] not in seen_columns:
            faults, fault_count = [], 0  # every row lacks it: said once
        if given_split and drawn_split:
            missing.append(
                f"some rows have a {theirs['split']!r} and some lack it; give it to all, null for none"
            )
        faults, fault_count = [*missing, *faults], fault_count + len(missing)
        if not missing:
            duplicates = self._duplicates(hashes, theirs["sample_id"])
            faults, fault_count = [*faults, *duplicates], fault_count + len(duplicates)
        if faults:
            shown = faults[:MAX_FAULTS_SHOWN]
            more = [f"… and {fault_count - len(shown)} more"] if fault_count > len(shown) else []
            count = f"{fault_count} fault" + ("s" if fault_count != 1 else "")
            lines = "\n".join(f"  {fault}" for fault in [*shown, *more])
            raise SamplesError(f"{config.samples.named} has {count}:\n{lines}")

    def _duplicates(self, hashes: array, column: str) -> list[str]:
        """One line for each id that stands in several rows."""
        values = np.frombuffer(hashes, dtype=np.uint64)
        values.sort()  # in place: no second copy where there are very many
        suspects = set(values[1:][values[1:] == values[:-1]].tolist())
        if not suspects:
            return []
        places: dict[str, list[str]] = {}
        for raw in self.source.rows(self.storage):
            with contextlib.suppress(ValueError):  # an id of another type is a fault of its own
                if _hash(sample_id := label(raw.values.get(column))) in suspects:
                    places.setdefault(sample_id, []).append(raw.where)
        return [
            f"{column} {sample_id!r} stands at {', '.join(where[:5])}" + (" …" if len(where) > 5 else "")
            for sample_id, where in places.items()
            if len(where) > 1
        ]


def plan_sources(config: Config) -> list[str]:
    """Media columns kept: those the features read, and `video` where it may stand in for `audio`."""
    sources = config.source_columns()
    return ["video", *sources] if "audio" in sources and "video" not in sources else sources


def _our_columns(config: Config) -> list[str]:
    return ["sample_id", "split", "start_s", "end_s", *plan_sources(config), *config.targets]


def _missing_columns(config: Config, theirs: dict[str, str], seen: set[str]) -> list[str]:
    found = ", ".join(sorted(seen))
    needed = ["sample_id", *config.source_columns()]
    faults = []
    for ours in needed:
        if theirs[ours] in seen or (ours == "audio" and theirs.get("video") in seen):
            continue
        users = [name for name, feature in config.features.items() if feature.source == ours]
        why = f", needed by features.{users[0]}" if users else ""
        faults.append(
            f"no column {theirs[ours]!r}{why} (columns: {found}); "
            f"rename it with samples.columns: {{{ours}: …}}"
        )
    if not any(theirs[target] in seen for target in config.targets):
        names = ", ".join(repr(theirs[target]) for target in config.targets)
        faults.append(f"no target column {names} (columns: {found})")
    return faults


def _convert(
    raw: RawRow, theirs: Mapping[str, str], labels: Mapping[str, LabelColumn]
) -> tuple[dict[str, Any], list[str]]:
    row: dict[str, Any] = {}
    faults: list[str] = []
    for ours, column in theirs.items():
        value = raw.values.get(column)
        if value == "" or (isinstance(value, float) and math.isnan(value)):
            value = None
        try:
            row[ours] = _typed(ours, value, labels, raw.folder)
        except ValueError as error:
            row[ours] = None
            faults.append(f"{column}: {error}")
    if row["sample_id"] is None and not faults:
        faults.append(f"{theirs['sample_id']}: is empty")
    start_s, end_s = row["start_s"], row["end_s"]
    if (start_s is not None and start_s < 0) or (end_s is not None and end_s <= (start_s or 0)):
        faults.append(f"start_s {start_s} and end_s {end_s} are no segment")
    return row, faults


def _typed(ours: str, value: Any, labels: Mapping[str, LabelColumn], folder: str) -> Any:
    """A manifest's value in our type; ValueError says what is wrong with it."""
    if value is None:
        return None
    if ours in ("start_s", "end_s"):
        return number(value)
    if ours in labels:
        return labels[ours].read(value)
    if ours == "sample_id":
        return label(value)
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {value!r}")
    if ours == "split" and value not in SPLITS:
        raise ValueError(f"{value!r} is not one of {', '.join(SPLITS)}")
    if ours in ("split", "text"):
        return value
    if scheme_of(value) not in SCHEMES:
        raise ValueError(f"{value}: unknown scheme {scheme_of(value)!r}; use a path or s3://")
    return join(folder, value)


def _hash(sample_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(sample_id.encode(), digest_size=8).digest())


def split_of(sample_id: str, split: SplitConfig) -> str:
    """The split of a sample whose manifest names none: by its id's hash, so it never changes."""
    draw = _hash(f"{split.seed}:{sample_id}") / 2**64
    if draw < split.test:
        return "test"
    return "val" if draw < split.test + split.val else "train"
