"""A table of predictions → what its model said of the rows whose truth is known, target by target.

The table's metadata holds the targets as they were fitted, so that nothing but the table is needed.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mmray.errors import TableError
from mmray.targets import FittedTarget, Predicted, targets_in

__all__ = ["Judged", "judged"]


@dataclass(frozen=True)
class Judged:
    """N rows of one target with a prediction and a known truth."""

    target: FittedTarget
    rows: np.ndarray
    """[N] int64: where they stand in the table."""
    predicted: Predicted
    truth: np.ndarray
    """Encoded."""
    unpredicted: np.ndarray
    """[M] int64: where the rows stand that have a truth and no prediction."""


def judged(tables: Iterable[pa.Table]) -> dict[str, Judged]:
    """{target: what is said of it} in the parts of a table of predictions; {} where there are none.

    Raises:
        TableError: where the tables say nothing about their targets.

    """
    parts = list(tables)
    if not parts:
        return {}
    table = pa.concat_tables(parts)
    fitted = targets_in(table.schema)
    if not fitted:
        raise TableError("the predictions do not say what their targets are; score again with this mmray")
    return {name: _judged(name, target, table) for name, target in fitted.items()}


def _judged(name: str, target: FittedTarget, table: pa.Table) -> Judged:
    known, said = table[name].is_valid().to_numpy(), table[f"{name}_predicted"].is_valid().to_numpy()
    rows, without = np.flatnonzero(known & said), np.flatnonzero(known & ~said)
    some = table.take(pa.array(rows))
    probabilities = None
    if target.target.probabilistic:
        lists = some[f"{name}_probabilities"].combine_chunks()
        if not lists.null_count:  # other writers may leave them out
            probabilities = lists.flatten().to_numpy().reshape(len(rows), -1)
    truth = target.encode(target.target.read(name, some[name]))
    said = target.encode(target.target.read(name, some[f"{name}_predicted"]))
    return Judged(target, rows, Predicted(said, probabilities), truth, without)
