"""What is prepared ⇄ one Arrow table of plain binary columns: how a partition travels between two pools."""

from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa

from mmray.features.base import Step
from mmray.features.preparing import Prepared
from mmray.tables.schemas import ERROR

__all__ = ["from_arrow", "to_arrow"]


def to_arrow(prepared: Prepared) -> pa.Table:
    """A decoded partition as one Arrow table: arrays as bytes with shape and dtype, words as lists."""
    columns: dict[str, Any] = {"samples": prepared.samples.to_struct_array()}
    for name, steps in prepared.steps.items():
        arrays = [step.value if step and isinstance(step.value, np.ndarray) else None for step in steps]
        words = [step.value if step and isinstance(step.value, list) else None for step in steps]
        texts = [step.value if step and isinstance(step.value, str) else None for step in steps]
        columns |= {
            f"{name}.bytes": pa.array([a if a is None else a.tobytes() for a in arrays], pa.large_binary()),
            f"{name}.shape": pa.array([a if a is None else a.shape for a in arrays], pa.list_(pa.int64())),
            f"{name}.dtype": pa.array([a if a is None else str(a.dtype) for a in arrays], pa.string()),
            f"{name}.words": pa.array(words, pa.list_(pa.string())),
            f"{name}.text": pa.array(texts, pa.string()),
            f"{name}.start_s": pa.array([step and step.start_s for step in steps], pa.float64()),
            f"{name}.step_s": pa.array([step and step.step_s for step in steps], pa.float64()),
            f"{name}.times_s": pa.array([step and step.times_s for step in steps], pa.list_(pa.float32())),
            f"{name}.error": pa.array(prepared.errors[name], ERROR),
            f"{name}.wanted": pa.array(prepared.wanted[name], pa.bool_()),
        }
    seconds = [dict(prepared.seconds)] * prepared.samples.num_rows
    return pa.table({**columns, "seconds": pa.array(seconds, pa.map_(pa.string(), pa.float64()))})


def from_arrow(table: pa.Table) -> Prepared:
    """The reverse of `to_arrow`; arrays are views of the table's memory."""
    names = [column.removesuffix(".bytes") for column in table.column_names if column.endswith(".bytes")]
    samples = pa.Table.from_struct_array(table["samples"])
    return Prepared(
        samples,
        {name: table[f"{name}.wanted"].to_pylist() for name in names},
        {name: [_step_at(table, name, row) for row in range(table.num_rows)] for name in names},
        {name: table[f"{name}.error"].to_pylist() for name in names},
        defaultdict(float, table["seconds"][0].as_py() if table.num_rows else {}),
    )


def _step_at(table: pa.Table, name: str, row: int) -> Step | None:
    words = table[f"{name}.words"][row].as_py()
    value: Any = table[f"{name}.text"][row].as_py() if words is None else words
    if (shape := table[f"{name}.shape"][row].as_py()) is not None:
        raw = table[f"{name}.bytes"][row].as_buffer()
        value = np.frombuffer(raw, dtype=table[f"{name}.dtype"][row].as_py()).reshape(shape)
    if value is None:
        return None
    times = table[f"{name}.times_s"][row].as_py()
    return Step(
        value,
        table[f"{name}.start_s"][row].as_py(),
        table[f"{name}.step_s"][row].as_py(),
        None if times is None else np.array(times, np.float32),
    )
