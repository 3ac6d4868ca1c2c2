"""Columns of arrays → the samples they are about, and the feature of each, as `mmray extract` would have it.

    samples     `sample_id`, `split`, targets: a manifest
    steps       one feature of every row: padding cut off, [T, D] or words, or the reason why there is none
    in_context  a row holds the vectors of all samples of its recording, its own at time 0

The context of a sample is what the neighbours in its recording look like: bc-LSTM (Poria et al. 2017,
"Context-dependent sentiment analysis in user-generated videos") runs over the utterances of a video. As
features have steps with times anyhow, the utterances become the steps: row i of n has start_s = -i and
step_s = 1, time being counted in samples, and what an encoder says at time 0 is about the row itself.
"""

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmray.errors import MediaError, SamplesError
from mmray.features.imported import ImportedFeature
from mmray.samples.arrays import Columns, numbered

__all__ = ["ImportedStep", "in_context", "sample_ids", "samples", "steps"]


class ImportedStep(NamedTuple):
    """One feature of one row: vectors [T, D] float32, or words."""

    value: np.ndarray | list[str]
    start_s: float | None = None
    step_s: float | None = None


# ------------------------------------------------------------------------------------ samples


def samples(
    columns: Columns, renamed: Mapping[str, str], targets: Sequence[str], lists: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Manifest rows; `renamed` is {our column: theirs}, and a raw text is kept as `text`.

    Of the targets in `lists` an array of one label stays a list.

    Raises:
        SamplesError: where a target is not there.
    """
    given = {name: renamed.get(name, name) for name in ("split", *targets)}
    given |= {name: renamed[name] for name in ("text", "start_s", "end_s") if name in renamed}
    if "text" not in given and "raw_text" in columns:
        given["text"] = "raw_text"
    for name in {*targets, *(name for name in given if name in renamed)}:
        if given[name] not in columns:
            raise SamplesError(
                f"no array {given[name]!r} for {name} (there are: {', '.join(columns)}); "
                f"name it with samples.columns: {{{name}: …}}"
            )
    ids = sample_ids(columns, renamed)
    taken = {name: [_plain(value, keep_lists=name in lists) for value in columns[theirs]]
             for name, theirs in given.items() if theirs in columns}  # fmt: skip
    return [
        {"sample_id": sample_id, **{name: values[row] for name, values in taken.items()}}
        for row, sample_id in enumerate(ids)
    ]


def sample_ids(columns: Columns, renamed: Mapping[str, str]) -> list[str]:
    """The ids of the rows: `sample_id` or `id`, or a row's place where there is neither.

    An id of several parts (recording, start, end) is joined with `_`.

    Raises:
        SamplesError: where the array that samples.columns names is not there.
    """
    wanted = renamed.get("sample_id")
    name = wanted or next((name for name in ("sample_id", "id") if name in columns), None)
    if name is None:
        return [f"row_{row:06d}" for row in range(len(next(iter(columns.values()))))]
    if name not in columns:
        raise SamplesError(f"samples.columns.sample_id: no array {name!r} (there are: {', '.join(columns)})")
    return ["_".join(map(str, np.ravel(np.asarray(_plain(value)))))
            if isinstance(value, list | tuple | np.ndarray) else str(_plain(value))
            for value in columns[name]]  # fmt: skip


def _plain(value: Any, *, keep_lists: bool = False) -> Any:
    """A Python value of a numpy one: a single number or text (or a list of it), bytes as text."""
    if isinstance(value, np.ndarray | np.generic):
        single = value.size == 1 and not (keep_lists and value.ndim)
        value = value.item() if single else value.tolist()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


# ------------------------------------------------------------------------------------ features


def steps(name: str, feature: ImportedFeature, columns: Columns) -> list[ImportedStep | MediaError]:
    """The feature of every row, or why it has none.

    Padding is cut off: by the lengths where there are any, else (with `trim_zeros`) the steps at the end
    that are all zero. A row without a step is `empty`, one with numbers that are not finite `corrupt`.

    Raises:
        SamplesError: where there is no such array, or its rows are neither vectors nor words.
    """
    array = feature.array or name
    if array in columns:
        values = list(columns[array])
    elif parts := numbered(columns, array):
        values = [_vector(row) for row in zip(*(columns[part] for part in parts))]
    else:
        raise SamplesError(
            f"features.{name}: no array {array!r} (there are: {', '.join(columns)}); "
            f"name it with features.{name}.array"
        )
    lengths = _lengths(name, array, feature, columns)
    reasons = columns.get("errors") or [[]] * len(values)
    found: list[ImportedStep | MediaError] = []
    for row, value in enumerate(values):
        try:
            if value is None:
                told = next((e for e in reasons[row] if e["modality"] == array), None)
                raise MediaError(told["reason"], told["detail"]) if told else MediaError("absent", array)
            taken = _taken(value, None if lengths is None else int(lengths[row]), feature.trim_zeros)
        except MediaError as error:
            found.append(error)
        except (ValueError, TypeError) as error:
            raise SamplesError(f"features.{name}: row {row} of {array!r}: {error}") from None
        else:
            times = (columns.get(f"{array}_{unit}", {row: None})[row] for unit in ("start_s", "step_s"))
            found.append(ImportedStep(taken, *times))
    return found


def _lengths(name: str, array: str, feature: ImportedFeature, columns: Columns) -> Sequence[Any] | None:
    if feature.lengths and feature.lengths not in columns:
        raise SamplesError(f"features.{name}.lengths: no array {feature.lengths!r}")
    given = feature.lengths or f"{array}_lengths"
    return columns.get(given)


def _taken(value: Any, length: int | None, trim_zeros: bool) -> np.ndarray | list[str]:
    """A row's value without its padding."""
    if isinstance(value, list) and value and isinstance(value[0], str):
        return value if length is None else value[:length]
    vectors = np.asarray(value, dtype=np.float32)
    if vectors.ndim > 2:
        raise ValueError(f"expected a vector or [T, D], got shape {list(vectors.shape)}")
    is_sequence = vectors.ndim == 2
    vectors = vectors if is_sequence else vectors.reshape(1, -1)
    if length is not None and is_sequence:
        vectors = vectors[:length]
    elif trim_zeros and is_sequence and len(vectors) > 1:
        vectors = vectors[: int(np.flatnonzero(vectors.any(axis=1)).max(initial=-1)) + 1]
    if not vectors.size:
        raise MediaError("empty", "no step that is not padding")
    if bad := int((~np.isfinite(vectors)).sum()):
        raise MediaError("corrupt", f"{bad} of {vectors.size} values are not finite")
    return vectors


def _vector(cells: Sequence[Any]) -> list[float] | None:
    """A row's numbered columns, which CSV holds as texts; none at all is no vector."""
    if all(cell in ("", None) for cell in cells):
        return None
    return [math.nan if cell in ("", None) else float(cell) for cell in cells]


def in_context(
    pattern: str,
    ids: Sequence[str],
    splits: Sequence[str | None],
    own: Sequence[ImportedStep | MediaError],
) -> Iterator[ImportedStep | MediaError]:
    """For every row its whole recording: the mean over the steps of each of its samples, in their order.

    `pattern` cuts an id into recording and place; places are compared as numbers where all of a
    recording's are, else as texts. Rows of another split are never among a row's neighbours: what a model is
    tested on stays out of what it learns from. A neighbour without the feature is left out, and not counted
    in the times; a row without it has none.

    Raises:
        SamplesError: where an id does not match.
    """
    cut = [re.fullmatch(pattern, sample_id) for sample_id in ids]
    if strange := [sample_id for sample_id, match in zip(ids, cut) if match is None]:
        raise SamplesError(
            f"context {pattern!r}: {len(strange)} ids do not match, for example {', '.join(strange[:3])}"
        )
    means = [
        None if isinstance(step, MediaError) else np.mean(np.asarray(step.value), axis=0) for step in own
    ]
    recordings: dict[tuple, list[tuple[str, int]]] = defaultdict(list)
    keys = [(match and match[1], split) for match, split in zip(cut, splits)]
    for row, (match, key) in enumerate(zip(cut, keys)):
        if match and means[row] is not None:
            recordings[key].append((match[2], row))
    for members in recordings.values():
        numeric = all(place.isdecimal() for place, _ in members)
        members.sort(key=lambda member: int(member[0]) if numeric else member[0])
    for row, (step, key) in enumerate(zip(own, keys)):
        if isinstance(step, MediaError):
            yield step
            continue
        rows = [member for _, member in recordings[key]]
        yield ImportedStep(np.stack([means[r] for r in rows]), -float(rows.index(row)), 1.0)  # pyright: ignore
