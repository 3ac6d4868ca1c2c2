"""Tables of several features side by side, as tests look at them."""

import pyarrow as pa

from mmray.tables.schemas import ERROR


def joined(tables: dict[str, pa.Table]) -> pa.Table:
    """The tables of several features side by side; `errors` lists those of all, each with its `modality`."""
    first = next(iter(tables.values()))
    errors: list[list[dict]] = [[] for _ in range(first.num_rows)]
    table = first.select(["sample_id"])
    for name, part in tables.items():
        for row, error in enumerate(part["error"].to_pylist()):
            errors[row] += [{**error, "modality": name}] if error else []
        for column in part.column_names:
            if column.startswith(name):
                table = table.append_column(part.schema.field(column), part[column])
    kind = pa.list_(pa.struct([*ERROR, ("modality", pa.string())]))
    return table.append_column("errors", pa.array(errors, kind))
