"""Columns of arrays → the samples they are about, and the feature of each, as `mmray extract` would have it.

samples     `sample_id`, `split`, targets: a manifest
steps       one feature of every row: padding cut off, [T, D] or words, or the reason why there is none
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmray.errors import MediaError, SamplesError
from mmray.features.imported import ImportedFeature
from mmray.samples.arrays import numbered
from mmray.samples.labels import number, shown
from mmray.samples.raw import parse_json
from mmray.samples.trees import IDS, INTERVALS, UNNAMED, VECTORS, Arrays, Columns

__all__ = ["Found", "ImportedStep", "column_of", "feature_columns", "ids_of", "places", "samples", "steps"]

ELEMENT = re.compile(r"(.+)\[([0-9]{1,6})\]")
"""`y[3]`: an element of each row of a column."""


class ImportedStep(NamedTuple):
    """One feature of one row: vectors [T, D] float32, or words."""

    value: np.ndarray | list[str]
    start_s: float | None = None
    step_s: float | None = None


class Found(NamedTuple):
    """A feature of every row, or why it has none; and what is odd about the rows together."""

    steps: list[ImportedStep | MediaError]
    notes: list[str]


# ------------------------------------------------------------------------------------ samples


def samples(
    source: Arrays,
    renamed: Mapping[str, str],
    targets: Sequence[str],
    lists: Collection[str] = (),
    keep: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Manifest rows; `renamed` is {our column: theirs}; a raw text is kept as `text`, and what `keep` names.

    Of the targets in `lists` an array of one label stays a list. Of recordings each interval is
    a sample, `video[0]`, `video[1]`, … as the CMU SDK calls them.

    Raises:
        SamplesError: where a column that `renamed` names is not there, or holds several numbers a row.
    """
    columns = _segments(source)
    given = {name: renamed.get(name, name) for name in ("split", *targets)}
    given |= {name: theirs for name, theirs in renamed.items() if name != "sample_id"}
    given |= {name: name for name in ("start_s", "end_s") if name in columns and name not in given}
    given |= {name: name for name in keep if name not in given}
    if "text" not in given and "raw_text" in columns:
        given["text"] = "raw_text"
    taken: Columns = {}
    for name, theirs in given.items():
        column = column_of(columns, theirs)
        if column is None:
            if name in renamed or name in targets:
                raise SamplesError(
                    f"{source.path}: no array {theirs!r} for {name} (there are: {source.named}); "
                    f"name it with samples.columns: {{{name}: …}}"
                )
            continue
        taken[name] = [_plain(value, keep_lists=name in lists) for value in column]
        if name in targets and name not in lists:
            _require_single(source.path, name, theirs, taken[name])
    ids = places(columns, renamed) if ids_of(columns, renamed) is None else ids_of(columns, renamed)
    return [
        {"sample_id": sample_id, **{name: values[row] for name, values in taken.items()}}
        for row, sample_id in enumerate(ids or ())
    ]


def _require_single(path: str, name: str, theirs: str, values: Sequence[Any]) -> None:
    several = next((value for value in values if isinstance(value, list) and len(value) != 1), None)
    if several is not None:
        raise SamplesError(
            f"{path}: {theirs!r} holds {len(several)} values a row ({shown(several)}), targets.{name} is "
            f"one: choose it with samples.columns: {{{name}: '{theirs}[0]'}}, or use kind: multilabel"
        )


def column_of(columns: Columns, name: str) -> Sequence[Any] | None:
    """A column, or an element of each row of one: `y[3]`; None where it is not there.

    Raises:
        SamplesError: where a row has no such element.
    """
    if name in columns:
        return columns[name]
    match = ELEMENT.fullmatch(name)
    if not match or match[1] not in columns:
        return None
    place = int(match[2])
    taken = []
    for row, value in enumerate(columns[match[1]]):
        elements = None if value is None else np.ravel(np.asarray(value))
        if elements is not None and place >= len(elements):
            raise SamplesError(f"{name!r}: row {row} has {len(elements)} elements, numbered from 0")
        taken.append(None if elements is None else elements[place])
    return taken


def _segments(source: Arrays) -> Columns:
    """Columns of which each interval of a recording is a row; as they are where there are no intervals."""
    columns = source.columns
    sequences = [name for name in columns if name + INTERVALS in columns]
    if not sequences:
        return columns
    first = sequences[0]
    rows = []
    for place, video in enumerate(columns["id"]):
        held = columns[first + INTERVALS][place]
        for part, (start_s, end_s) in enumerate(np.asarray([] if held is None else held, np.float64)):
            row: dict[str, Any] = {"id": f"{video}[{part}]", "start_s": float(start_s), "end_s": float(end_s)}
            row["recording"] = video
            row[first] = columns[first][place][part]
            rows.append(row)
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else {"id": 0})}


def ids_of(columns: Columns, renamed: Mapping[str, str]) -> list[str] | None:
    """The ids of the rows: `sample_id` or `id`; None where there are none.

    An id of several parts (recording, start, end) is joined with `_`; a whole number has no point.

    Raises:
        SamplesError: where the array that samples.columns names is not there, or a row has no id.
    """
    wanted = renamed.get("sample_id")
    name = wanted or next((name for name in IDS[:2] if name in columns), None)
    if name is None:
        return None
    column = column_of(columns, name)
    if column is None:
        raise SamplesError(f"samples.columns.sample_id: no array {name!r} (there are: {', '.join(columns)})")
    return [_id(row, value) for row, value in enumerate(column)]


def _id(row: int, value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray) and np.size(np.asarray(value)) != 1:
        return "_".join(_id(row, part) for part in np.ravel(np.asarray(value, dtype=object)))
    value = _plain(value)
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        raise SamplesError(f"row {row} has no id ({value!r})")
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def places(columns: Columns, renamed: Mapping[str, str]) -> list[str]:
    """Ids of rows that have none: their places."""
    return [f"row_{row:06d}" for row in range(len(next(iter(columns.values()), ())))]


def _plain(value: Any, *, keep_lists: bool = False) -> Any:
    """A JSON value of a numpy one: a single number or text (or a list of it), bytes as text, None for NaN."""
    if isinstance(value, np.ndarray | np.generic):
        single = value.size == 1 and not (keep_lists and value.ndim)
        value = value.item() if single else np.squeeze(value).tolist() if value.ndim > 1 else value.tolist()
    if isinstance(value, list | tuple):
        if len(value) == 1 and not keep_lists:
            return _plain(value[0])
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


# ------------------------------------------------------------------------------------ features


def feature_columns(name: str, feature: ImportedFeature, source: Arrays) -> tuple[Columns, list[str]]:
    """The columns that a feature is made of: itself (as VECTORS), `lengths`, `start_s`, `step_s`, `reasons`.

    Raises:
        SamplesError: where there is no such array.
    """
    columns = source.columns
    array, notes = feature.array or name, []
    parts = numbered(columns, array)
    if column_of(columns, array) is None and not parts:
        others = [c for c in columns if c.lower() in UNNAMED or c + INTERVALS in columns]
        only = VECTORS if VECTORS in columns else others[0] if len(others) == 1 else None
        if feature.array or only is None:
            raise SamplesError(
                f"features.{name}: {source.path} has no array {array!r} (there are: {source.named}); "
                f"name it with features.{name}.array"
            )
        if only != VECTORS:
            notes.append(f"features.{name}: {only!r} is taken, the only array of {source.path}")
        array = only
    if (values := column_of(columns, array)) is None:
        values = [_vector(array, row, cells) for row, cells in enumerate(zip(*(columns[p] for p in parts)))]
    lengths = None
    if feature.lengths:
        lengths = columns.get(feature.lengths)
        if lengths is None:
            raise SamplesError(f"features.{name}.lengths: no array {feature.lengths!r} in {source.path}")
    elif feature.lengths is None:
        lengths = columns.get(f"{array}_lengths", columns.get(f"{array}_length"))
    taken: Columns = {VECTORS: values}
    if lengths is not None:
        taken["lengths"] = lengths
    for ours in ("start_s", "step_s"):
        if f"{array}_{ours}" in columns:
            taken[ours] = columns[f"{array}_{ours}"]
    if array + INTERVALS in columns:
        taken["intervals"] = columns[array + INTERVALS]
    if "error" in columns:
        taken["reasons"] = columns["error"]
    elif "errors" in columns:
        taken["reasons"] = [
            next((e for e in row if e["modality"] == array), None) for row in columns["errors"]
        ]
    return taken, notes


def steps(name: str, feature: ImportedFeature, columns: Columns) -> Found:
    """The feature of every row, or why it has none; `columns` are those of `feature_columns`.

    Padding is cut off: by the lengths where there are any (behind zeros in front, where they are), else (with
    `trim_zeros`) the steps in front and at the end that are all zero. A row without a step is `empty`, one
    with numbers that are not finite, or too large for the feature's dtype, `corrupt`.

    Raises:
        SamplesError: where rows are neither vectors nor words, or lengths cannot be right.
    """
    values, notes = _without_texts(f"features.{name}", list(columns[VECTORS]))
    lengths = _lengths(name, feature, columns, values)
    odd: Counter[str] = Counter()
    found: list[ImportedStep | MediaError] = []
    for row, value in enumerate(values):
        try:
            if value is None:
                told = columns["reasons"][row] if "reasons" in columns else None
                raise MediaError(told["reason"], told["detail"]) if told else MediaError("absent", name)
            trim = feature.trim_zeros and "intervals" not in columns
            taken = _taken(value, lengths[row], trim, feature.dtype, odd)
        except MediaError as error:
            found.append(error)
        except (ValueError, TypeError) as error:
            raise SamplesError(f"features.{name}: row {row}: {error}") from None
        else:
            start_s, step_s = (
                columns[unit][row] if unit in columns else None for unit in ("start_s", "step_s")
            )
            found.append(ImportedStep(taken, start_s, step_s))
    notes += [f"features.{name}: {count} of {len(values)} rows {what}" for what, count in odd.items()]
    return Found(found, notes)


def _lengths(
    name: str, feature: ImportedFeature, columns: Columns, values: Sequence[Any]
) -> Sequence[int | None]:
    """How many steps of each row are real; None where it is not said.

    Raises:
        SamplesError: where some cannot be right.
    """
    given = columns.get("lengths")
    if given is None:
        return [None] * len(values)
    lengths: list[int | None] = []
    wrong: list[str] = []
    for row, (value, length) in enumerate(zip(values, given, strict=True)):
        if value is None or length is None:
            lengths.append(None)
            continue
        length = _plain(length)  # None where it is NaN
        try:
            whole = number(length)
        except ValueError:
            whole = math.nan
        most = len(value) if np.ndim(value) != 1 or isinstance(value, list) else None
        if not whole.is_integer() or whole < 0 or (most is not None and whole > most):
            steps_there = "" if most is None else f", with {most} steps"
            wrong.append(f"row {row}: {shown(length, 20)}{steps_there}")
        lengths.append(0 if math.isnan(whole) else int(whole))
    if wrong:
        named = feature.lengths or f"{feature.array or name}_lengths"
        raise SamplesError(
            f"features.{name}: {len(wrong)} of {len(values)} lengths in {named!r} cannot be right "
            f"({'; '.join(wrong[:3])}); name the array of its lengths with features.{name}.lengths, or set "
            "that to false: then zeros are the padding"
        )
    return lengths


def _taken(
    value: Any, length: int | None, trim_zeros: bool, dtype: str, odd: Counter[str]
) -> np.ndarray | list[str]:
    """A row's value without its padding; what is odd about it is counted in `odd`."""
    if _is_words(value):
        words = [str(word) for word in value]
        words = words if length is None else words[:length]
        if not words:
            raise MediaError("empty", "no word")
        return words
    vectors = _floats(value)
    if vectors.ndim > 2:
        raise ValueError(f"expected a vector or [T, D], got shape {list(vectors.shape)}")
    is_sequence = vectors.ndim == 2
    vectors = vectors if is_sequence else vectors.reshape(1, -1)
    if length is not None and is_sequence:
        tail, head = vectors[length:], vectors[: len(vectors) - length]
        if head.size and not head.any() and tail.any():
            odd["have zeros in front of the data: padding, cut off"] += 1
            tail, vectors = head, vectors[len(head) :]
        if length and tail.size and not (np.isnan(tail).all() or _repeats(tail, vectors[length - 1])):
            odd[
                "have steps after their length that are not padding (neither zeros nor one step repeated)"
            ] += 1
        vectors = vectors[:length]
    elif trim_zeros and is_sequence and len(vectors) > 1:
        real = np.flatnonzero(vectors.any(axis=1))
        first, last = (real[0], real[-1]) if len(real) else (0, -1)
        if first:
            odd["have zeros in front of the data: padding, cut off (trim_zeros: false keeps zeros)"] += 1
        vectors = vectors[first : last + 1]
        if len(vectors) > 2 and (vectors[-3:] == vectors[-1]).all() and (vectors != vectors[-1]).any():
            odd["end in one step again and again: if that is padding, give their lengths"] += 1
    if not vectors.size:
        raise MediaError("empty", "no step that is not padding")
    if bad := int((~np.isfinite(vectors)).sum()):
        raise MediaError("corrupt", f"{bad} of {vectors.size} values are not finite")
    with np.errstate(over="ignore"):
        if dtype == "float16" and (bad := int((~np.isfinite(vectors.astype(np.float16))).sum())):
            largest = float(np.abs(vectors).max())
            raise MediaError(
                "corrupt", f"{bad} of {vectors.size} values are too large for float16 ({largest:g})"
            )
    return vectors


def _repeats(tail: np.ndarray, last: np.ndarray) -> bool:
    """Whether padding is all zeros, the last step again and again, or another one."""
    return bool(not tail.any() or (tail == last).all() or (len(tail) > 1 and (tail == tail[0]).all()))


def _floats(value: Any) -> np.ndarray:
    """As float32; what does not fit becomes infinite.

    Raises:
        ValueError: where these are no real numbers.
    """
    if isinstance(value, str | bytes):
        raise ValueError(f"expected a vector, got the text {shown(value)}")
    array = np.asarray(value)
    if array.dtype.kind not in "biufO":
        raise ValueError(f"expected real numbers, got {array.dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32)


def _vector(array: str, row: int, cells: Sequence[Any]) -> list[float] | None:
    """A row's numbered columns, which CSV holds as texts; none at all is no vector."""
    if all(cell in ("", None) for cell in cells):
        return None
    try:
        return [math.nan if cell in ("", None) else float(cell) for cell in cells]
    except (TypeError, ValueError):
        raise SamplesError(f"row {row} of {array}_0 …: not all are numbers ({shown(list(cells))})") from None


# ------------------------------------------------------------------------------------ texts


def _is_words(value: Any) -> bool:
    """Whether it is [T] texts."""
    if isinstance(value, np.ndarray):
        texts = value.dtype.kind == "U" or (
            value.dtype.kind == "O" and all(isinstance(v, str) for v in value)
        )
        return value.ndim == 1 and len(value) > 0 and texts
    return isinstance(value, list | tuple) and len(value) > 0 and isinstance(value[0], str)


def _innermost(value: Any) -> Any:
    """The first element of the first element …"""
    while isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim):
        if not len(value):
            return None
        value = value[0]
    return value


def _without_texts(what: str, values: list[Any]) -> tuple[list[Any], list[str]]:
    """Rows whose numbers are texts (`["0.1", "0.2"]`, `"[0.1, 0.2]"`) as numbers; rows of words as they are.

    Raises:
        SamplesError: where some rows are numbers and others words.
    """
    texts = [row for row, value in enumerate(values) if isinstance(_innermost(value), str)]
    if not texts:
        return values, []
    numbers = {row: found for row in texts if (found := _numbers(values[row])) is not None}
    if not numbers:
        return values, []
    if len(numbers) < len(texts):
        if len(numbers) * 2 < len(texts):
            return values, []
        row = next(row for row in texts if row not in numbers)
        raise SamplesError(
            f"{what}: {len(numbers)} of {len(texts)} rows of texts are numbers, others are not (row {row}: "
            f"{shown(values[row])}): give numbers, or words"
        )
    shapes = {found.shape[-1] if found.ndim else 0 for found in numbers.values()}
    if len(shapes) > 1:
        return values, [f"{what}: all words are numbers, in rows of different lengths: taken as words"]
    whole = [numbers.get(row, value) for row, value in enumerate(values)]
    return whole, [f"{what}: the numbers of {len(numbers)} rows are written as texts: read as numbers"]


def _numbers(value: Any) -> np.ndarray | None:
    """The numbers that texts write; None where one writes none."""
    if isinstance(value, str):
        if not value.strip().startswith("["):
            return None
        try:
            value = parse_json(value)
        except ValueError:
            return None
    try:
        cells = np.asarray(value)
        return cells.astype(np.float32) if cells.dtype.kind in "OU" or cells.size else None
    except (ValueError, TypeError):
        return None
