"""Several models' predictions of the same rows → what they say together, and how far they are apart.

Probabilities and numbers are means over the models (Lakshminarayanan, Pritzel and Blundell 2017, "Simple and
scalable predictive uncertainty estimation using deep ensembles"); `TARGET_spread` is the standard deviation
over the models: of the predicted class's probability, of a number, of the least agreed label of a set. Of a
row that only some models can predict it is these models' mean.

Shapes: M models, N rows, C classes.
"""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from mmray.errors import TableError
from mmray.tables.schemas import prediction_schema
from mmray.targets import FittedTarget, Predicted, metadata_of, targets_in
from mmray.training.operating import Decision

__all__ = ["ensemble", "require_one_ensemble"]


def require_one_ensemble(members: Sequence[Mapping[str, FittedTarget]]) -> None:
    """Refuse models that predict different things.

    Raises:
        TableError: naming the target.
    """
    first = members[0]
    for other in members[1:]:
        if different := sorted(first.keys() ^ other.keys()):
            raise TableError(f"target {', '.join(different)}: only some of the models predict it")
        for name, target in first.items():
            same = (target.target.kind, target.names) == (other[name].target.kind, other[name].names)
            if not same:
                raise TableError(f"target {name}: the models have other classes, or another kind, of it")


def ensemble(
    tables: Sequence[pa.Table], name: str, decisions: Mapping[str, Decision] | None = None
) -> pa.Table:
    """A table of predictions by all models together, in the order of the first, which `name` is the model of.

    Raises:
        TableError: where the tables are not of the same rows, or predict different things.
    """
    members = [targets_in(table.schema) for table in tables]
    require_one_ensemble(members)
    first = tables[0]
    if any(table["sample_id"] != first["sample_id"] for table in tables[1:]):
        raise TableError("the predictions to join are not of the same samples in the same order")
    some = np.any([table["error"].is_null().to_numpy() for table in tables], axis=0)
    present = [
        list(dict.fromkeys(feature for own in row for feature in own))
        for row in zip(*(table["present"].to_pylist() for table in tables))
    ]
    columns = {
        "sample_id": first["sample_id"],
        "split": first["split"],
        "present": pa.array(present, pa.list_(pa.string())),
        "model": pa.array([name] * first.num_rows),
        "error": pa.array(
            [None if there else error for there, error in zip(some, first["error"].to_pylist())],
            first["error"].type,
        ),
    }
    for target_name, target in members[0].items():
        columns |= _target(target_name, target, tables, (decisions or {}).get(target_name, Decision()))
    schema = prediction_schema({n: t.target for n, t in members[0].items()}, spread=True)
    arrays = [columns[field.name].cast(field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema.with_metadata(metadata_of(members[0])))


def _target(
    name: str, target: FittedTarget, tables: Sequence[pa.Table], decision: Decision
) -> dict[str, pa.Array | pa.ChunkedArray]:
    kind, rows = target.target.arrow_type, tables[0].num_rows
    columns: dict[str, pa.Array | pa.ChunkedArray] = {name: tables[0][name]}
    p, said, apart_NC = None, np.ones(rows, bool), np.zeros((rows, 0))
    if target.target.probabilistic:
        p_MNC = np.stack(
            [_matrix(table[f"{name}_probabilities"], len(target.names or [])) for table in tables]
        )
        said = ~np.isnan(p_MNC[..., 0]).all(0)
        p, apart_NC = _mean(p_MNC), _spread(p_MNC)
        p = p.astype(np.float32)
    if pa.types.is_floating(kind):
        values_MN = np.stack([table[f"{name}_predicted"].to_numpy() for table in tables]).astype(float)
        said = ~np.isnan(values_MN).all(0)
        values, spread = _mean(values_MN), _spread(values_MN)
    else:
        assert p is not None, "what is no number has probabilities"
        values = _values(target, np.nan_to_num(p))
        spread = apart_NC.max(1) if values.ndim == 2 else apart_NC[np.arange(rows), values]
    values, abstains = decision(target, Predicted(values, None if p is None else np.nan_to_num(p)))
    columns[f"{name}_predicted"] = pa.array(target.for_table(values), kind, mask=~said | abstains)
    columns[f"{name}_spread"] = pa.array(spread, pa.float32(), mask=~said)
    if p is not None:
        columns[f"{name}_probabilities"] = pa.array(p.tolist(), pa.list_(pa.float32()), mask=~said)
    return columns


def _matrix(column: pa.ChunkedArray, classes: int) -> np.ndarray:
    """[N, C] float64; NaN where null."""
    lists = column.combine_chunks()
    found = np.full((len(lists), classes), np.nan)
    found[lists.is_valid().to_numpy(zero_copy_only=False)] = lists.flatten().to_numpy().reshape(-1, classes)
    return found


def _mean(values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():  # of a row that no model predicts it is NaN
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=0)


def _spread(values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanstd(values, axis=0)


def _values(target: FittedTarget, p_NC: np.ndarray) -> np.ndarray:
    """Encoded: the labels that reach the target's threshold, the median level, the likeliest class."""
    kind = target.target.kind
    if kind == "multilabel":
        return (p_NC >= target.target.threshold).astype(np.int64)
    if kind == "ordinal":
        return (np.cumsum(p_NC, axis=1)[:, :-1] < 0.5).sum(1)
    return p_NC.argmax(1)
