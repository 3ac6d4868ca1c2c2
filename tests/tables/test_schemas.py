import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmray.tables.schemas import (
    ERROR,
    FeatureShape,
    errors_of,
    feature_schema,
    prediction_schema,
    ragged_from_column,
    sample_schema,
    vectors_to_column,
)
from mmray.targets import ClassificationTarget, RegressionTarget

TARGETS = {
    "emotion": ClassificationTarget(kind="classification"),
    "strength": RegressionTarget(kind="regression"),
}
LENGTHS = [3, None, 1, 0, None, 5]


@pytest.fixture(params=["float32", "float16"])
def shape(request):
    return FeatureShape(4, request.param)


@pytest.fixture
def vectors(shape):
    rng = np.random.default_rng(0)
    return [None if n is None else rng.normal(size=(n, 4)).astype(shape.dtype) for n in LENGTHS]


def assert_same_rows(column, vectors):
    values, offsets = ragged_from_column(column)
    assert values.dtype == np.float32
    assert offsets.dtype == np.int64
    assert len(offsets) == len(vectors) + 1
    for i, vector in enumerate(vectors):
        expected = np.zeros((0, 4), np.float32) if vector is None else vector.astype(np.float32)
        np.testing.assert_array_equal(values[offsets[i] : offsets[i + 1]], expected)


# ------------------------------------------------------------------------------------ vectors


def test_a_column_holds_exactly_the_arrays(shape, vectors):
    column = vectors_to_column(vectors, shape)
    assert column.type == shape.arrow_type
    for row, vector in zip(column.to_pylist(), vectors):  # Arrow's own reading
        if vector is None:
            assert row is None
        else:
            assert row == [[float(x) for x in step] for step in vector]
    column.validate(full=True)


def test_vectors_come_back(shape, vectors):
    assert_same_rows(vectors_to_column(vectors, shape), vectors)


def test_vectors_come_back_from_slices_and_chunks(shape, vectors):
    column = vectors_to_column(vectors, shape)
    for start in range(len(vectors)):
        for stop in range(start, len(vectors) + 1):
            assert_same_rows(column.slice(start, stop - start), vectors[start:stop])
    assert_same_rows(
        pa.chunked_array([column, column.slice(2), column.slice(0, 0)]), [*vectors, *vectors[2:]]
    )
    assert_same_rows(pa.chunked_array([], type=shape.arrow_type), [])


def test_vectors_come_back_from_parquet(shape, vectors, tmp_path):
    pq.write_table(
        pa.table({"face": vectors_to_column(vectors, shape)}), tmp_path / "t.parquet", row_group_size=2
    )
    assert_same_rows(pq.read_table(tmp_path / "t.parquet")["face"], vectors)
    plain = pd.read_parquet(tmp_path / "t.parquet")["face"]  # other tools need nothing of ours
    assert [None if row is None else len(row) for row in plain] == LENGTHS


@pytest.mark.parametrize("rows", [[], [None, None], [np.zeros((0, 4), np.float32)]])
def test_columns_without_any_vector(shape, rows):
    column = vectors_to_column(rows, shape)
    assert column.type == shape.arrow_type
    assert column.null_count == sum(row is None for row in rows)
    values, offsets = ragged_from_column(column)
    assert values.shape == (0, 4)
    assert offsets.tolist() == [0] * (len(rows) + 1)


@pytest.mark.parametrize("wrong", [np.zeros((2, 3)), np.zeros(4), np.zeros((1, 2, 4))])
def test_arrays_of_another_shape_are_refused(shape, wrong):
    with pytest.raises(ValueError, match=r"expected \[T, 4\] arrays, got shapes"):
        vectors_to_column([np.zeros((1, 4)), wrong], shape)


def test_words_come_back():
    rows = [["ein", "größeres", "Wort"], None, [], ["x"]]
    column = pa.chunked_array([pa.array(rows, FeatureShape(None).arrow_type)])
    words, offsets = ragged_from_column(column)
    assert words.tolist() == ["ein", "größeres", "Wort", "x"]
    assert offsets.tolist() == [0, 3, 3, 3, 4]


# ------------------------------------------------------------------------------------ schemas


def test_schemas_name_what_the_contract_says():
    assert sample_schema(["video", "text"], TARGETS).names == [
        *("sample_id", "split", "group", "start_s", "end_s", "video", "text", "video_version"),
        *("emotion", "strength", "media_key"),
    ]
    assert sample_schema(["video"], TARGETS).field("emotion").type == pa.string()
    assert sample_schema(["video"], TARGETS).field("strength").type == pa.float64()
    face = feature_schema("face", FeatureShape(8, "float16", timed=True))
    words = feature_schema("words", FeatureShape(None))
    assert face.names == [
        *("sample_id", "media_key", "face", "face_length", "face_start_s", "face_step_s", "face_times_s"),
        "error",
    ]
    assert words.names == [
        *("sample_id", "media_key", "words", "words_length", "words_start_s", "words_step_s", "error")
    ]
    assert str(face.field("face").type) == "list<item: fixed_size_list<item: halffloat>[8]>"
    assert words.field("words").type == pa.list_(pa.string())
    assert face.field("face_times_s").type == pa.list_(pa.float32())
    assert prediction_schema(TARGETS).names == [
        *("sample_id", "split"),
        *("emotion", "emotion_predicted", "emotion_probabilities"),
        *("strength", "strength_predicted"),
        *("present", "model", "error"),
    ]


def test_ids_are_never_null():
    for schema in (feature_schema("words", FeatureShape(None)), prediction_schema(TARGETS)):
        assert not schema.field("sample_id").nullable


# ------------------------------------------------------------------------------------ errors


def test_errors_of_a_table():
    def error(reason):
        return {"stage": "decode", "reason": reason, "detail": "d", "attempts": 2}

    rows = [
        {"sample_id": "a", "error": None},
        {"sample_id": "b", "error": error("corrupt")},
        {"sample_id": "c", "error": error("absent")},
    ]
    table = pa.Table.from_pylist(rows, pa.schema([("sample_id", pa.string()), ("error", ERROR)]))
    assert errors_of(table, "face") == [{"sample_id": "b", "feature": "face", **error("corrupt")}]
    every = errors_of(table, "face", failures_only=False)
    assert [e["reason"] for e in every] == ["corrupt", "absent"]
