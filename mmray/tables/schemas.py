"""Names, Arrow types and shapes of the index, the feature tables and the predictions: the only place.

Index (a row a sample): `sample_id`, `split`, `group`, `start_s`, `end_s`, one column a media source used by
the config (`video`, `audio`, `image`: URIs; `text`: inline) and of each but texts its version, one column a
target, and `media_key`, a hash of all that features can depend on. A target's column is

    classification, ordinal classes          the class, string
    multilabel                               the classes that hold, list<string>; [] none of them
    regression, ordinal with a scale         float64

and null where the truth is not known.

Features, a table each (a row a sample, always): `sample_id`, `media_key` (a hash of what this feature of
this sample was made from), then for the feature `m`:

    m            [T, D] as list<fixed_size_list<float, D>>, or [T] words as list<string>; null: absent
    m_length     T, int32; 0 where m is null
    m_start_s    time of the first step, seconds from the start of the sample; null for text
    m_step_s     time from one step to the next (of frames: the mean); null for text
    m_times_s    of frames only: the time of each, [T] as list<float>, seconds from the sample's start
    m_boxes      of frames cut around a face: left, top, right, bottom of each, fractions of the picture

and `error`, {stage, reason, detail, attempts}: why m is null; null where it is not.

Predictions (a row a sample): `sample_id`, `split`, for each target `t`: `t` (the truth where known),
`t_predicted` (in the type of `t`), and for all but regression `t_probabilities`, list<float>: of each
class, in the order the table's metadata names, or of the levels -3 … 3 of an ordinal scale; then `present`
(features the model saw), `model` (fingerprint), `error`: why there is no prediction.

On request `t_top`, the likeliest labels with their probabilities; `embedding`, the fused vector; of an
ensemble `t_spread`, the standard deviation over its models.

Plain Arrow lists, not Ray's tensor extension: pandas, DuckDB, polars and Spark read them as they are.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmray.targets import Target

__all__ = [
    "ERROR",
    "SOURCES",
    "TOP",
    "FeatureShape",
    "columns_of",
    "errors_of",
    "feature_schema",
    "prediction_schema",
    "ragged_from_column",
    "sample_schema",
    "vectors_to_column",
    "version_of",
]

SCHEMA_VERSION = 3

SOURCES = ("video", "audio", "image", "text")
"""Columns of the index that hold media."""

ERROR = pa.struct(
    [
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("attempts", pa.int32()),
    ]
)


@dataclass(frozen=True)
class FeatureShape:
    """What one feature holds: vectors of `dim` numbers a step, or words (`dim` None)."""

    dim: int | None
    dtype: str = "float32"
    timed: bool = False
    """Whether each step has a time of its own."""
    boxed: bool = False
    """Whether the region that each step was made from is kept."""

    @property
    def arrow_type(self) -> pa.DataType:
        """Type of the feature's column."""
        if self.dim is None:
            return pa.list_(pa.string())
        number = pa.float16() if self.dtype == "float16" else pa.float32()
        return pa.list_(pa.list_(number, self.dim))


def sample_schema(
    sources: Sequence[str], targets: Mapping[str, Target], keep: Sequence[str] = ()
) -> pa.Schema:
    """Schema of the index: `sources` are the media columns the config uses, `keep` further ones."""
    return pa.schema(
        [
            pa.field("sample_id", pa.string(), nullable=False),
            ("split", pa.string()),
            ("group", pa.string()),
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            *((source, pa.string()) for source in sources),
            *((version_of(source), pa.string()) for source in sources if source != "text"),
            *((name, target.arrow_type) for name, target in targets.items()),
            *((name, pa.string()) for name in keep),
            pa.field("media_key", pa.string(), nullable=False),
        ]
    )


def version_of(source: str) -> str:
    """The column with the version of a medium: null where it is not looked at."""
    return f"{source}_version"


def feature_schema(name: str, shape: FeatureShape) -> pa.Schema:
    """Schema of the table of one feature."""
    timed = [pa.field(f"{name}_times_s", pa.list_(pa.float32()))] if shape.timed else []
    boxed = [pa.field(f"{name}_boxes", pa.list_(pa.list_(pa.float32(), 4)))] if shape.boxed else []
    return pa.schema(
        [
            pa.field("sample_id", pa.string(), nullable=False),
            pa.field("media_key", pa.string(), nullable=False),
            pa.field(name, shape.arrow_type),
            pa.field(f"{name}_length", pa.int32(), nullable=False),
            pa.field(f"{name}_start_s", pa.float32()),
            pa.field(f"{name}_step_s", pa.float32()),
            *timed,
            *boxed,
            pa.field("error", ERROR),
        ]
    )


def columns_of(feature: str) -> list[str]:
    """The columns that hold a feature and the times of its steps; the last one only some tables have."""
    return [f"{feature}{part}" for part in ("", "_start_s", "_step_s", "_times_s")]


TOP = pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float32())]))
"""Labels, the likeliest first."""


def prediction_schema(
    targets: Mapping[str, Target], *, top: bool = False, embedding: bool = False, spread: bool = False
) -> pa.Schema:
    """Schema of the prediction table, with the columns that are made on request."""
    fields = [pa.field("sample_id", pa.string(), nullable=False), pa.field("split", pa.string())]
    for name, target in targets.items():
        fields += target.fields(name)
        fields += [pa.field(f"{name}_top", TOP)] if top and target.probabilistic else []
        fields += [pa.field(f"{name}_spread", pa.float32())] if spread else []
    fields += [pa.field("embedding", pa.list_(pa.float32()))] if embedding else []
    fields += [
        pa.field("present", pa.list_(pa.string()), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("error", ERROR),
    ]
    return pa.schema(fields)


def vectors_to_column(vectors: Sequence[np.ndarray | None], shape: FeatureShape) -> pa.Array:
    """A column of one [T, D] array a row; None becomes null.

    Raises:
        ValueError: where an array's last dimension is not D.

    """
    present = [v for v in vectors if v is not None]
    if bad := [v.shape for v in present if v.ndim != 2 or v.shape[1] != shape.dim]:
        raise ValueError(f"expected [T, {shape.dim}] arrays, got shapes {bad[:3]}")
    number = np.float16 if shape.dtype == "float16" else np.float32
    flat = np.concatenate([np.zeros((0, shape.dim or 0), number), *present]).astype(number)
    lengths = np.array([0 if v is None else len(v) for v in vectors], dtype=np.int32)
    steps = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), shape.dim)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    missing = np.array([v is None for v in vectors], dtype=bool)
    return pa.ListArray.from_arrays(pa.array(offsets), steps, type=shape.arrow_type, mask=pa.array(missing))


def ragged_from_column(column: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """A feature column → (values [sum of T, D] float32 or [sum of T] words, offsets [rows + 1] int64).

    A null row has no values: its two offsets are equal.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values = array.flatten()
    if pa.types.is_fixed_size_list(values.type):
        dim = values.type.list_size
        flat = values.flatten().to_numpy(zero_copy_only=False)
        return flat.astype(np.float32, copy=False).reshape(-1, dim), offsets
    return values.to_numpy(zero_copy_only=False), offsets


def errors_of(table: pa.Table, feature: str, *, failures_only: bool = True) -> list[dict]:
    """Every error of a feature's table as a dict, with `sample_id` and `feature`; `absent` is no failure."""
    rows = table.select(["sample_id", "error"]).filter(pc.is_valid(table["error"])).to_pylist()
    return [
        {"sample_id": row["sample_id"], "feature": feature, **row["error"]}
        for row in rows
        if not (failures_only and row["error"]["reason"] == "absent")
    ]
