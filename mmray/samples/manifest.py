"""A manifest (JSONL, CSV or Parquet) → partitions of samples that depend only on the manifest.

The manifest is read once, as a stream. Every row is checked; all faults come in one error, with line
numbers, before any other work. The checked samples are written as Parquet below the feature table,
one row group a partition: a worker then reads its own row group and nothing else, and no process ever
holds more than one partition, however many rows there are. Ids are compared by 64-bit hashes (8 bytes a
row), and by name only where two hashes meet.
"""

import contextlib
import csv
import hashlib
import io
import json
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmray.config import Config, SplitConfig
from mmray.errors import SamplesError, StorageError, TableError
from mmray.storage import SCHEMES, Storage, absolute, join, parent, scheme_of
from mmray.tables import sample_schema, target_type

__all__ = ["SPLITS", "SamplePlan", "plan_samples"]

SPLITS = ("train", "val", "test")
PARTITIONS_PER_FILE = 128
MAX_FAULTS_SHOWN = 20


@dataclass(frozen=True)
class SamplePlan:
    """The samples of a project, cut into partitions; its files lie in `folder`."""

    folder: str
    rows: int
    partitions: int
    partition_samples: int
    digest: str
    """Changes when any sample, or the way they are cut, changes."""
    splits: dict[str, int]
    """Rows a split; rows without one are under ''."""
    source: dict[str, Any]
    """The manifest's path, size and version when it was read."""

    def read(self, storage: Storage, partition: int) -> pa.Table:
        """The samples of one partition, in the manifest's order."""
        file, group = divmod(partition, PARTITIONS_PER_FILE)
        filesystem, path = storage.filesystem(f"{self.folder}/samples-{file:05d}.parquet")
        with filesystem.open(path, "rb") as opened:
            return pq.ParquetFile(opened).read_row_group(group)


def plan_samples(config: Config, storage: Storage, folder: str) -> SamplePlan:
    """Check the manifest and cut it into partitions, or take the cut that `folder` already holds.

    Raises:
        SamplesError: listing what is wrong with the manifest.
        TableError: if the samples are not those `folder` was made from.
    """
    known = storage.read_json(f"{folder}/_index.json")
    source = _version(config, storage)
    if known and known["source"] == source:
        return SamplePlan(folder=folder, **known)
    # A finished plan is never touched: where the file is newer but says the same, the old cut stands.
    plan = _write_plan(config, storage, folder, source, write=known is None)
    if known and known["digest"] != plan.digest:
        raise TableError(
            f"{config.samples.manifest}: the samples (or `samples`, `targets`, `extract.partition_samples`) "
            f"changed since {parent(folder)} was begun: {known['rows']} rows then, {plan.rows} now; "
            "give another `output`, or delete that folder to start over"
        )
    index = {key: value for key, value in asdict(plan).items() if key != "folder"}
    storage.write_json(f"{folder}/_index.json", index)
    return plan


def _version(config: Config, storage: Storage) -> dict[str, Any]:
    """What tells, without reading it, that the manifest and the way it is read are the same."""
    manifest = absolute(config.samples.manifest)
    filesystem, path = storage.filesystem(manifest)
    if not storage.exists(manifest):
        raise SamplesError(f"{config.samples.manifest}: no such manifest (samples.manifest)")
    with storage.faults(manifest):
        info = filesystem.info(path)
    reading = {
        "samples": config.samples.model_dump(mode="json", exclude={"manifest"}),
        "targets": {name: target.model_dump(mode="json") for name, target in config.targets.items()},
        "sources": config.source_columns(),
        "partition_samples": config.extract.partition_samples,
    }
    return {
        "manifest": manifest,
        "bytes": info["size"],
        "version": str(info.get("ETag") or info.get("mtime")),
        "reading": hashlib.sha256(json.dumps(reading, sort_keys=True).encode()).hexdigest()[:16],
    }


def _write_plan(
    config: Config, storage: Storage, folder: str, source: dict[str, Any], *, write: bool
) -> SamplePlan:
    schema = sample_schema(_plan_sources(config), config.targets)
    size = config.extract.partition_samples
    digest = hashlib.sha256(f"{size}".encode())
    splits: Counter[str] = Counter()
    rows = partitions = files = 0
    groups: list[pa.Table] = []

    def flush() -> None:
        nonlocal files, groups
        if groups and write:
            sink = io.BytesIO()
            with pq.ParquetWriter(sink, schema) as writer:
                for group in groups:
                    writer.write_table(group)
            storage.write(f"{folder}/samples-{files:05d}.parquet", sink.getvalue())
        files, groups = files + 1, []

    # A manifest with a fault raises after its last row: what was written lacks its index, so is no plan.
    for chunk in _chunks(_checked_rows(config, storage), size):
        table = pa.Table.from_pylist(chunk, schema=schema)
        digest.update(json.dumps(chunk, sort_keys=True, ensure_ascii=False).encode())
        splits.update(row["split"] or "" for row in chunk)
        rows, partitions = rows + len(chunk), partitions + 1
        groups.append(table)
        if len(groups) == PARTITIONS_PER_FILE:
            flush()
    if groups:
        flush()
    if not rows:
        raise SamplesError(f"{config.samples.manifest}: the manifest has no rows")
    return SamplePlan(
        folder=folder,
        rows=rows,
        partitions=partitions,
        partition_samples=size,
        digest=digest.hexdigest()[:16],
        splits=dict(splits),
        source=source,
    )


def _plan_sources(config: Config) -> list[str]:
    """Media columns kept: those the features read, and `video` where it may stand in for `audio`."""
    sources = config.source_columns()
    return ["video", *sources] if "audio" in sources and "video" not in sources else sources


def _chunks(rows: Iterable[dict], size: int) -> Iterator[list[dict]]:
    chunk: list[dict] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


# ------------------------------------------------------------------------------------ checking


def _checked_rows(config: Config, storage: Storage) -> Iterator[dict]:
    """The manifest's rows in our columns and types; raises with all faults after the last row."""
    manifest = absolute(config.samples.manifest)
    folder = parent(manifest)
    theirs = {ours: config.samples.columns.get(ours, ours) for ours in _our_columns(config)}
    seen_columns: set[str] = set()
    faults: list[str] = []
    fault_count = 0
    hashes = array("Q")
    given_split = drawn_split = False

    for line, raw in _raw_rows(manifest, storage):
        seen_columns.update(raw)
        row, row_faults = _convert(raw, theirs, config, folder)
        given_split |= row["split"] is not None
        drawn_split |= theirs["split"] not in raw
        if row_faults:
            fault_count += len(row_faults)
            faults += [f"line {line}: {fault}" for fault in row_faults][: MAX_FAULTS_SHOWN - len(faults)]
            continue
        hashes.append(_hash(row["sample_id"]))
        if not fault_count:
            if theirs["split"] not in raw:
                row["split"] = split_of(row["sample_id"], config.samples.split)
            yield row

    missing = _missing_columns(config, theirs, seen_columns) if seen_columns else []
    if seen_columns and theirs["sample_id"] not in seen_columns:
        faults, fault_count = [], 0  # every row lacks it: said once
    if given_split and drawn_split:
        missing.append(
            f"some rows have a {theirs['split']!r} and some lack it; give it to all, null for none"
        )
    faults, fault_count = [*missing, *faults], fault_count + len(missing)
    if not missing:
        duplicates = _duplicates(hashes, manifest, storage, theirs["sample_id"])
        faults, fault_count = [*faults, *duplicates], fault_count + len(duplicates)
    if faults:
        shown = faults[:MAX_FAULTS_SHOWN]
        more = [f"… and {fault_count - len(shown)} more"] if fault_count > len(shown) else []
        count = f"{fault_count} fault" + ("s" if fault_count != 1 else "")
        lines = "\n".join(f"  {fault}" for fault in [*shown, *more])
        raise SamplesError(f"{config.samples.manifest} has {count}:\n{lines}")


def _our_columns(config: Config) -> list[str]:
    return ["sample_id", "split", "start_s", "end_s", *_plan_sources(config), *config.targets]


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


def _convert(raw: dict, theirs: dict[str, str], config: Config, folder: str) -> tuple[dict, list[str]]:
    row: dict[str, Any] = {}
    faults: list[str] = []
    for ours, column in theirs.items():
        value = raw.get(column)
        if value == "" or (isinstance(value, float) and math.isnan(value)):
            value = None
        try:
            row[ours] = _typed(ours, value, config, folder)
        except ValueError as error:
            row[ours] = None
            faults.append(f"{column}: {error}")
    if row["sample_id"] is None and not faults:
        faults.append(f"{theirs['sample_id']}: is empty")
    start_s, end_s = row["start_s"], row["end_s"]
    if (start_s is not None and start_s < 0) or (end_s is not None and end_s <= (start_s or 0)):
        faults.append(f"start_s {start_s} and end_s {end_s} are no segment")
    return row, faults


def _typed(ours: str, value: Any, config: Config, folder: str) -> Any:
    """A manifest's value in our type; ValueError says what is wrong with it."""
    if value is None:
        return None
    if ours in ("start_s", "end_s"):
        return _number(value)
    if ours in config.targets:
        kind = target_type(config.targets[ours])
        if pa.types.is_list(kind):
            return _labels(value)
        return _label(value) if pa.types.is_string(kind) else _number(value)
    if ours == "sample_id":
        return _label(value)
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {value!r}")
    if ours == "split" and value not in SPLITS:
        raise ValueError(f"{value!r} is not one of {', '.join(SPLITS)}")
    if ours in ("split", "text"):
        return value
    if scheme_of(value) not in SCHEMES:
        raise ValueError(f"{value}: unknown scheme {scheme_of(value)!r}; use a path or s3://")
    return join(folder, value)


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"expected a number, got {value!r}") from None
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError(f"expected a finite number, got {value!r}")
    return number


def _label(value: Any) -> str:
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    raise ValueError(f"expected text or a whole number, got {value!r}")


def _labels(value: Any) -> list[str]:
    """A list, or text with `|` between the labels (and a lone `|` for none) → the labels, each once."""
    if isinstance(value, str):
        value = [label.strip() for label in value.split("|") if label.strip()]
    if not isinstance(value, list):
        raise ValueError(f"expected a list of labels, or a|b, got {value!r}")
    return list(dict.fromkeys(_label(label) for label in value))


def _hash(sample_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(sample_id.encode(), digest_size=8).digest())


def split_of(sample_id: str, split: SplitConfig) -> str:
    """The split of a sample whose manifest names none: by its id's hash, so it never changes."""
    draw = _hash(f"{split.seed}:{sample_id}") / 2**64
    if draw < split.test:
        return "test"
    return "val" if draw < split.test + split.val else "train"


def _duplicates(hashes: array, manifest: str, storage: Storage, column: str) -> list[str]:
    """One line for each id that stands in several rows."""
    values, counts = np.unique(np.frombuffer(hashes, dtype=np.uint64), return_counts=True)
    suspects = set(values[counts > 1].tolist())
    if not suspects:
        return []
    lines: dict[str, list[int]] = {}
    for line, raw in _raw_rows(manifest, storage):
        with contextlib.suppress(ValueError):  # an id of another type is a fault of its own
            if _hash(sample_id := _label(raw.get(column))) in suspects:
                lines.setdefault(sample_id, []).append(line)
    return [
        f"{column} {sample_id!r} stands on lines {', '.join(map(str, where[:5]))}"
        + (" …" if len(where) > 5 else "")
        for sample_id, where in lines.items()
        if len(where) > 1
    ]


# ------------------------------------------------------------------------------------ reading


def _raw_rows(manifest: str, storage: Storage) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line or row number, {column: value}) of a manifest, streamed."""
    readers = {"jsonl": _jsonl, "ndjson": _jsonl, "csv": _csv, "parquet": _parquet, "pq": _parquet}
    extension = manifest.rpartition(".")[2].lower()
    if extension not in readers:
        raise SamplesError(f"{manifest}: a manifest is a .jsonl, .csv or .parquet file")
    filesystem, path = storage.filesystem(manifest)
    try:
        with storage.faults(manifest), filesystem.open(path, "rb") as opened:
            yield from readers[extension](opened)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise SamplesError(f"{manifest}: no such manifest (samples.manifest)") from None
        raise
    except (ValueError, pa.ArrowInvalid) as error:
        raise SamplesError(f"{manifest}: {error}") from None


def _jsonl(opened: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(io.TextIOWrapper(opened, encoding="utf-8"), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {line}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {line}: expected an object, got {type(row).__name__}")
        yield line, row


def _csv(opened: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.TextIOWrapper(opened, encoding="utf-8-sig", newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"line {reader.line_num}: not {len(reader.fieldnames or [])} fields")
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None


def _parquet(opened: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for batch in pq.ParquetFile(opened).iter_batches(batch_size=4096):
        for row in batch.to_pylist():
            number += 1
            yield number, row
