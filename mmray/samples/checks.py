"""Raw rows of a source → samples in our columns and types; all faults of all rows in one error.

Ids are compared by 64-bit hashes (8 bytes a row), and by name only where two hashes meet.
"""

import contextlib
import hashlib
import json
import math
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mmray.config import Config
from mmray.errors import SamplesError
from mmray.samples.labels import LabelColumn, label, number, shown
from mmray.samples.raw import RawRow, Reading, shown_name
from mmray.samples.sources import Source
from mmray.samples.split import MEDIA, group_of, split_of, split_read, two_tests
from mmray.storage.filesystem import Storage
from mmray.storage.uris import (
    SCHEMES,
    cell_of,
    has_password,
    join,
    scheme_of,
    without_password,
    without_passwords,
)

__all__ = ["CheckedRows", "plan_sources"]

MAX_FAULTS_SHOWN = 20
MAX_COLUMNS_SHOWN = 40
MAX_SECONDS = 1e9


class CheckedRows:
    """Iterates over the samples of a source; raises with all faults after the last row.

    A sample has our columns, its `group`, and those of `samples.keep`. After the first fault no more samples
    come: what was made of them is not a whole plan.

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
        """What is odd, though it can be read, and what was left out; complete after the last row."""
        self.without_source = 0
        """Samples that have nothing of what the features are made from."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        config = self.config
        split = config.samples.split
        theirs = {ours: config.samples.columns.get(ours, ours) for ours in _our_columns(config)}
        reading, sources = self._reading(theirs), plan_sources(config)
        faults = _Faults(config.samples.named)
        hashes = array("Q")
        whole_rows = given_split = drawn_split = False
        labels = {name: LabelColumn(name, target) for name, target in config.targets.items()}
        spelled: set[str] = set()

        for raw in self.source.rows(self.storage, reading):
            if raw.damaged and config.samples.allow_damaged_shards:
                self.damage.append(f"{raw.where}: {raw.fault}")
                continue
            row, row_faults = ({}, [raw.fault]) if raw.fault else _convert(raw, theirs, labels)
            whole_rows |= not raw.fault
            if not row_faults:
                row_faults = self._add_group(row, raw, theirs, reading)
            if row_faults:
                faults.add(raw.where, row_faults)
                continue
            if row["split"] is not None:
                given_split = True
                spelled.add(raw.values[theirs["split"]].strip().lower())
            drawn_split |= theirs["split"] not in raw.values
            hashes.append(_hash(row["sample_id"]))
            draw = row.pop("draw")
            if split.folds or theirs["split"] not in raw.values:
                row["split"] = split_of(draw, split)
            if sources and all(row[source] is None for source in sources):
                self.without_source += 1
                reading.note(f"samples without any of {', '.join(sources)}", shown_name(row["sample_id"]))
            if not faults.count:
                yield row

        if whole_rows:
            if theirs["sample_id"] not in reading.met:
                faults.clear()  # every row lacks it: said once
            missing = self._missing_columns(theirs, reading)
            for column in labels.values():
                missing += column.faults()
            if given_split and drawn_split and not split.folds:
                name = theirs["split"]
                missing.append(f"some rows have a {name!r} and some lack it; give it to all, null for none")
            missing += [] if split.folds else two_tests(theirs["split"], spelled)
            faults.add_first(missing)
            if not missing:
                faults.add("", self._duplicates(hashes, theirs["sample_id"]))
        faults.end()
        if split.folds and given_split:
            self.notes.append(
                f"the source's {theirs['split']!r} is not used: samples.split.folds draws the splits"
            )
        self.notes += map(without_passwords, reading.notes)
        for column in labels.values():
            self.notes += column.notes()

    def _reading(self, theirs: Mapping[str, str]) -> Reading:
        """What is asked of the source."""
        samples = self.config.samples
        group = (
            [samples.columns.get(samples.split.group, samples.split.group)]
            if isinstance(samples.split.group, str)
            else []
        )
        media = {medium: samples.columns.get(medium, medium) for medium in MEDIA}
        return Reading(
            columns=frozenset([*theirs.values(), *samples.keep, *group]),
            media=media,
            sample_id=theirs["sample_id"],
            also=frozenset(media.values()),
        )

    def _add_group(
        self, row: dict[str, Any], raw: RawRow, theirs: Mapping[str, str], reading: Reading
    ) -> list[str]:
        """Put `group`, what to draw its split by, and what is kept into a row; the faults of that."""
        samples = self.config.samples
        media: dict[str, str | None] = {}
        folder = raw.folder if samples.manifest else None
        for medium, column in reading.media.items():
            uri = raw.values.get(column)
            media[medium] = join(raw.folder, uri) if isinstance(uri, str) and uri else None
            folder = None if cell_of(media[medium] or "") else folder
        given = None
        if isinstance(samples.split.group, str):
            given = raw.values.get(samples.columns.get(samples.split.group, samples.split.group))
        try:
            group = group_of(row["sample_id"], media, folder, given, samples.split)
            row |= {"group": _whole(group.name), "draw": group.draw}
            row |= {column: _kept(raw.values.get(column)) for column in samples.keep}
        except ValueError as error:
            return [str(error)]
        if group.own:
            reading.note(
                f"samples without a {samples.split.group!r}, each a group of its own", row["sample_id"]
            )
        return []

    def _missing_columns(self, theirs: Mapping[str, str], reading: Reading) -> list[str]:
        """Columns that no row has; targets may be absent, which is noted."""
        config, met = self.config, reading.met
        names = [shown_name(name) for name in sorted(met)]
        found = ", ".join(names[:MAX_COLUMNS_SHOWN]) + (", …" if len(names) > MAX_COLUMNS_SHOWN else "")
        faults = []
        for ours in ("sample_id", *config.source_columns()):
            if theirs[ours] in met or (ours == "audio" and theirs.get("video") in met):
                continue
            users = [name for name, feature in config.features.items() if feature.source == ours]
            if ours in config.samples.optional:
                told = f"no column {theirs[ours]!r}: {', '.join(users)} absent in all samples"
                self.notes.append(told)
                continue
            why = f", needed by features.{users[0]}" if users else ""
            remedy = f"rename it with samples.columns: {{{ours}: …}}"
            remedy += f", or set samples.optional: [{ours}] if there is none" if users else ""
            faults.append(f"no column {theirs[ours]!r}{why} (columns: {found}); {remedy}")
        group = config.samples.split.group
        settings = {"samples.keep": config.samples.keep}
        settings["samples.split.group"] = (
            [config.samples.columns.get(group, group)] if isinstance(group, str) else []
        )
        for setting, columns in settings.items():
            faults += [
                f"no column {column!r}, which {setting} names (columns: {found})"
                for column in columns
                if column not in met
            ]
        unlabelled = [theirs[target] for target in config.targets if theirs[target] not in met]
        if unlabelled and len(unlabelled) == len(config.targets):
            self.notes.append(f"no target column {', '.join(map(repr, unlabelled))}: no sample has a label")
        return faults

    def _duplicates(self, hashes: array, column: str) -> list[str]:
        """One line for each id that stands in several rows."""
        values = np.frombuffer(hashes, dtype=np.uint64)
        values.sort()  # in place: no second copy where there are very many
        suspects = set(values[1:][values[1:] == values[:-1]].tolist())
        if not suspects:
            return []
        places: dict[str, list[str]] = {}
        counts: dict[str, int] = {}
        theirs = {ours: self.config.samples.columns.get(ours, ours) for ours in _our_columns(self.config)}
        for raw in self.source.rows(self.storage, self._reading(theirs)):
            with contextlib.suppress(ValueError):  # an id of another type is a fault of its own
                if _hash(sample_id := _whole(label(raw.values.get(column)).strip())) in suspects:
                    counts[sample_id] = counts.get(sample_id, 0) + 1
                    where = places.setdefault(sample_id, [])
                    where += [raw.where] if len(where) < 5 else []
        return [
            f"{column} {shown(sample_id)} stands at {', '.join(where)}"
            + (" …" if counts[sample_id] > 5 else "")
            for sample_id, where in places.items()
            if counts[sample_id] > 1
        ]


class _Faults:
    """Faults counted, the first of them kept."""

    def __init__(self, source: str):
        self.source = source
        self.count = 0
        self.shown: list[str] = []

    def add(self, where: str, faults: list[str]) -> None:
        """At a place of the source, or of all of it."""
        self.count += len(faults)
        prefix = f"{where}: " if where else ""
        self.shown += [f"{prefix}{fault}" for fault in faults[: max(0, MAX_FAULTS_SHOWN - len(self.shown))]]

    def add_first(self, faults: list[str]) -> None:
        """What is said before all others."""
        self.count += len(faults)
        self.shown = [*faults, *self.shown][:MAX_FAULTS_SHOWN]

    def clear(self) -> None:
        """Forget them."""
        self.count, self.shown = 0, []

    def end(self) -> None:
        """Raise, if there are any."""
        if self.count:
            more = [f"… and {self.count - len(self.shown)} more"] if self.count > len(self.shown) else []
            count = f"{self.count} fault" + ("s" if self.count != 1 else "")
            lines = "\n".join(f"  {fault}" for fault in [*self.shown, *more])
            raise SamplesError(without_passwords(f"{self.source} has {count}:\n{lines}"))


def plan_sources(config: Config) -> list[str]:
    """Media columns kept: those the features read, and `video` where it may stand in for `audio`."""
    sources = config.source_columns()
    return ["video", *sources] if "audio" in sources and "video" not in sources else sources


def _our_columns(config: Config) -> list[str]:
    return ["sample_id", "split", "start_s", "end_s", *plan_sources(config), *config.targets]


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
            row[ours] = _whole(_typed(ours, value, labels, raw.folder))
        except ValueError as error:
            row[ours] = None
            faults.append(f"{shown_name(column)}: {error}")
    if not row["sample_id"] and not faults:
        faults.append(f"{theirs['sample_id']}: is empty")
    start_s, end_s = row["start_s"] or 0.0, row["end_s"]
    if not 0 <= start_s < (MAX_SECONDS if end_s is None else end_s) <= MAX_SECONDS:
        faults.append(f"start_s {row['start_s']} and end_s {end_s} are no segment")
    return row, faults


def _typed(ours: str, value: Any, labels: Mapping[str, LabelColumn], folder: str) -> Any:
    """A manifest's value in our type; ValueError says what is wrong with it."""
    if value is None:
        return None
    if ours in ("start_s", "end_s"):
        return None if isinstance(value, str) and not value.strip() else number(value)
    if ours in labels:
        return labels[ours].read(value)
    if ours == "sample_id":
        return label(value).strip()
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {shown(value)}")
    if ours == "split":
        return split_read(value) if value.strip() else None
    if ours == "text":
        return value
    return _medium(value, folder)


def _medium(value: str, folder: str) -> str | None:
    """The URI of a medium, whose path starts at `folder`."""
    if has_password(value):
        place = shown_name(without_password(value))
        raise ValueError(f"{place}: keys do not belong in a URI; use the environment or storage.profile")
    if scheme_of(value) not in SCHEMES:
        scheme = shown(scheme_of(value), 20)
        raise ValueError(
            f"{shown_name(without_password(value))}: unknown scheme {scheme}; use a path or s3://"
        )
    return join(folder, value)


def _kept(value: Any) -> str | None:
    """A column that is only kept, as text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = isinstance(value, str | int | float) and not isinstance(value, bool)
    return _whole(str(value) if text else json.dumps(value, ensure_ascii=False, default=str))


def _whole(value: Any) -> Any:
    """The value, whose texts are made of whole characters.

    Raises:
        ValueError: where one has half of a pair (a lone surrogate), which no file and no table can hold.
    """
    for text in value if isinstance(value, list) else (value,):
        if isinstance(text, str) and not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                half = ascii(text[error.start])[1:-1]
                raise ValueError(
                    f"letter {error.start + 1} is half a character ({half}, a lone surrogate)"
                ) from None
    return value


def _hash(sample_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(sample_id.encode(), digest_size=8).digest())
