"""What feature tables say about the times of steps → a time for every step.

A step's time is `{m}_times_s` where the row has it, else `{m}_start_s` + i `{m}_step_s`. Features without
times (words, text, most imported vectors) are spread evenly over the time that the row's other features
cover, so that the middle word stands beside the middle of the sound. Where no feature of a row has a
time, step i is at i.

Shapes: N rows, T steps of a row.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from mmray.tables.schemas import ragged_from_column

__all__ = ["spread", "step_numbers", "stored_times"]


def step_numbers(lengths: np.ndarray) -> np.ndarray:
    """0 … T - 1 of each row, end to end, [sum of T] int64."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def stored_times(name: str, tables: Sequence[pa.Table], lengths: np.ndarray) -> np.ndarray:
    """Times of a feature's steps as the tables have them, [sum of T] float32; NaN: none.

    `lengths` [N] are the steps of each row of all tables. A single step needs no `{name}_step_s`.
    """
    start_s, step_s = (
        np.repeat(np.concatenate([_numbers(table, f"{name}_{part}") for table in tables]), lengths)
        for part in ("start_s", "step_s")
    )
    number = step_numbers(lengths)
    alone = np.repeat(lengths == 1, lengths)
    times = (start_s + np.where(alone, 0.0, number * step_s)).astype(np.float32)
    exact, exact_lengths = _exact(f"{name}_times_s", tables)
    given = exact_lengths == lengths
    times[np.repeat(given, lengths)] = exact[np.repeat(given, exact_lengths)]
    return times


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """A column of numbers [N], NaN where null or where the table has no such column."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    return table.column(name).cast(pa.float64()).to_numpy()


def _exact(name: str, tables: Sequence[pa.Table]) -> tuple[np.ndarray, np.ndarray]:
    """A column of lists: values end to end, and lengths [N], 0 where the row or the column is absent."""
    values, lengths = [np.zeros(0, np.float32)], []
    for table in tables:
        if name in table.column_names:
            part, offsets = ragged_from_column(table.column(name))
            values.append(part.astype(np.float32, copy=False))
            lengths.append(np.diff(offsets))
        else:
            lengths.append(np.zeros(table.num_rows, np.int64))
    return np.concatenate(values), np.concatenate(lengths)


def spread(lengths: Mapping[str, np.ndarray], stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{feature: times [sum of T] float32} without NaN, from {feature: [N]} and what `stored_times` gave.

    Step i of T without a time is at first + (i + 1/2) (last - first) / T, where `first` and `last` are the
    row's known times; at first + i where they are the same, at i where there is none.
    """
    rows = {name: np.repeat(np.arange(len(steps)), steps) for name, steps in lengths.items()}
    n_rows = max((len(steps) for steps in lengths.values()), default=0)
    first, last = np.full(n_rows, np.inf), np.full(n_rows, -np.inf)
    for name, times in stored.items():
        known = ~np.isnan(times)
        np.minimum.at(first, rows[name][known], times[known])
        np.maximum.at(last, rows[name][known], times[known])
    covered = last > first
    start = np.where(np.isfinite(first), first, 0.0)
    span = np.subtract(last, first, out=np.ones(n_rows), where=covered)
    filled = {}
    for name, times in stored.items():
        row, number = rows[name], step_numbers(lengths[name])
        even = start[row] + np.where(
            covered[row], (number + 0.5) * span[row] / np.maximum(lengths[name], 1)[row], number
        )
        filled[name] = np.where(np.isnan(times), even, times).astype(np.float32)
    return filled
