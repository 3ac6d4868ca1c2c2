"""Rows of a source of features ↔ samples: by id, or by place where neither has ids; never by guess.

What matches only when it is written alike (`001` and `1`, `A` and `a`, `a.mp4` and `a`) is refused; samples
without a row, and rows of no sample, are counted and named.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmray.errors import MediaError, SamplesError
from mmray.features.imported import ImportedFeature
from mmray.samples.imported import Found, feature_columns, ids_of, places, steps
from mmray.samples.trees import VECTORS, Arrays, Columns

__all__ = ["Wanted", "feature_of"]

EXAMPLES = 3


@dataclass(frozen=True)
class Wanted:
    """The samples that a feature is wanted of, a list each."""

    ids: Sequence[str]
    splits: Sequence[str | None]
    start_s: Sequence[float | None]
    end_s: Sequence[float | None]
    source: Arrays | None
    """The arrays they were read from; None where they come from a table of samples."""
    renamed: Mapping[str, str]
    """{our column: theirs} of that source."""


def feature_of(name: str, feature: ImportedFeature, source: Arrays, wanted: Wanted) -> Found:
    """A feature of every sample, in their order; `absent` where the source has no such id.

    Raises:
        SamplesError: where it is not known which row is which, or the rows are no feature.
    """
    columns, notes = feature_columns(name, feature, source)
    rows, told = _rows(name, source, wanted)
    taken = {
        column: [None if row is None else values[row] for row in rows] for column, values in columns.items()
    }
    if "intervals" in columns:
        taken = _cut(taken, wanted)
    found = steps(name, feature, taken)
    absent = MediaError("absent", f"{source.path} has no such sample")
    all_steps = [absent if row is None else step for row, step in zip(rows, found.steps, strict=True)]
    return Found(all_steps, [*source.notes, *notes, *told, *found.notes])


def _rows(name: str, source: Arrays, wanted: Wanted) -> tuple[list[int | None], list[str]]:
    """The row of each sample, and what is to be said about those without one."""
    is_same = wanted.source is source
    theirs = ids_of(source.columns, wanted.renamed if is_same else {})
    if theirs is None:
        if is_same:
            theirs = places(source.columns, {})
        else:
            return _by_place(name, source, wanted)
    by_id = {sample_id: row for row, sample_id in enumerate(theirs)}
    if len(by_id) < len(theirs):
        double = next(sample_id for row, sample_id in enumerate(theirs) if by_id[sample_id] != row)
        raise SamplesError(
            f"features.{name}: {source.path} has several rows of the same id, for example {double!r}"
        )
    by_recording = any(column.endswith("_intervals") for column in source.columns)
    rows = [by_id.get(sample_id) for sample_id in wanted.ids]
    if by_recording:
        rows = [
            by_id.get(re.sub(r"\[\d+\]$", "", sample_id)) if row is None else row
            for sample_id, row in zip(wanted.ids, rows, strict=True)
        ]
    lacking = [sample_id for sample_id, row in zip(wanted.ids, rows, strict=True) if row is None]
    used = {row for row in rows if row is not None}
    unused = [sample_id for row, sample_id in enumerate(theirs) if row not in used]
    _refuse_alike(name, source, lacking, unused, len(wanted.ids))
    if not used:
        raise SamplesError(
            f"features.{name}: none of the {len(theirs)} ids in {source.path} ({_examples(theirs)}) is one "
            f"of the {len(wanted.ids)} samples' ({_examples(wanted.ids)})"
        )
    notes = []
    if lacking:
        notes.append(
            f"features.{name}: {len(lacking)} of {len(wanted.ids)} samples are not in {source.path} "
            f"({_examples(lacking)}): absent there"
        )
    if unused:
        notes.append(
            f"features.{name}: {len(unused)} of {len(theirs)} rows of {source.path} are of no sample "
            f"({_examples(unused)})"
        )
    return rows, notes


def _by_place(name: str, source: Arrays, wanted: Wanted) -> tuple[list[int | None], list[str]]:
    """Row i for row i, where neither side has ids and nothing speaks against it."""
    own = wanted.source
    remedy = f"give {source.path} an array `id` like the samples'"
    if own is None or ids_of(own.columns, wanted.renamed) is not None:
        raise SamplesError(
            f"features.{name}: {source.path} has {source.rows} rows and no ids, so which of the "
            f"{len(wanted.ids)} samples each is about is not known; {remedy}"
        )
    if source.rows != own.rows:
        raise SamplesError(
            f"features.{name}: {source.path} has {source.rows} rows, {own.path} {own.rows}, and there are no "
            "ids to tell which is which; give both an array `id`"
        )
    mine, theirs = own.columns.get("split"), source.columns.get("split")
    if mine is not None and theirs is not None:
        differing = sum(str(a).lower() != str(b).lower() for a, b in zip(mine, theirs, strict=True))
        if differing:
            raise SamplesError(
                f"features.{name}: {differing} of {own.rows} rows of {source.path} are in another split than "
                f"those of {own.path}, and there are no ids to tell which is which; give both an array `id`"
            )
    place = {sample_id: row for row, sample_id in enumerate(places(own.columns, {}))}
    note = (
        f"features.{name}: {source.path} and {own.path} have no ids: row i of the one is taken for row i of "
        f"the other ({own.rows} rows)"
    )
    return [place[sample_id] for sample_id in wanted.ids], [note]


def _refuse_alike(
    name: str, source: Arrays, lacking: Sequence[str], unused: Sequence[str], count: int
) -> None:
    """Refuse ids that are the same but for how they are written."""
    theirs: dict[str, str] = {_bare(sample_id): sample_id for sample_id in unused}
    pairs = [
        (sample_id, theirs[bare]) for sample_id in lacking if (bare := _bare(sample_id)) and bare in theirs
    ]
    if pairs:
        told = ", ".join(f"{mine!r} there is {other!r}" for mine, other in pairs[:EXAMPLES])
        raise SamplesError(
            f"features.{name}: {len(lacking)} of {count} samples are not in {source.path}, but {len(pairs)} "
            f"of them would be if the ids were written alike: {told}; write them alike"
        )


def _bare(sample_id: str) -> str:
    """An id without what spellings differ in: case, folders, extension, separators, zeros in front."""
    name = sample_id.strip().casefold().rpartition("/")[2]
    name = re.sub(r"\.(?=[a-z])[a-z0-9]{2,5}$", "", name)
    return re.sub(r"0+(?=\d)", "", re.sub(r"[\W_]+", "_", name)).strip("_")


def _examples(ids: Sequence[str]) -> str:
    return ", ".join(ids[:EXAMPLES]) + (", …" if len(ids) > EXAMPLES else "")


def _cut(columns: Columns, wanted: Wanted) -> Columns:
    """Of recordings the steps that a sample's time overlaps; all of them where it has no time."""
    cut: dict[str, list[Any]] = {VECTORS: [], "start_s": [], "step_s": [], "intervals": []}
    for row, (value, held) in enumerate(zip(columns[VECTORS], columns["intervals"], strict=True)):
        intervals = np.asarray([] if held is None else held, np.float64)
        if (
            value is None
            or intervals.ndim != 2
            or intervals.shape[1:] != (2,)
            or len(intervals) != len(value)
        ):
            cut[VECTORS].append(None if value is None else np.empty((0, 1)))
            for name in ("start_s", "step_s", "intervals"):
                cut[name].append(None)
            continue
        start_s, end_s = wanted.start_s[row], wanted.end_s[row]
        inside = np.ones(len(intervals), bool)
        if start_s is not None:
            inside &= intervals[:, 1] > start_s
        if end_s is not None:
            inside &= intervals[:, 0] < end_s
        kept = intervals[inside] - (start_s or 0.0)
        cut[VECTORS].append(np.asarray(value)[inside])
        cut["start_s"].append(float(kept[0, 0]) if len(kept) else None)
        cut["step_s"].append(float(np.diff(kept[:, 0]).mean()) if len(kept) > 1 else None)
        cut["intervals"].append(kept)
    return {**columns, **cut}
