"""`mmray.read`: index, features and predictions as one table, as other tools read them from the files."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mmray
from mmray.errors import TableError
from mmray.storage.filesystem import Storage
from mmray.tables.parts import write_partition


@pytest.fixture(scope="module")
def config(shared_table_project):
    return shared_table_project()


def predict(output: str, name: str, ids: list[str]) -> None:
    """Predictions by hand, in another order than the samples'."""
    error = pa.struct([("stage", pa.string()), ("reason", pa.string())])
    table = pa.table(
        {
            "sample_id": ids[::-1],
            "emotion_predicted": [f"p-{i}" for i in ids[::-1]],
            "error": pa.array([None] * len(ids), error),
        }
    )
    write_partition(Storage(), f"{output}/predictions/{name}", 0, table)


def test_a_row_a_sample_with_all_there_is_of_it(config):
    table = mmray.read(config)
    plain = pq.read_table(config.path("samples"), schema=None, columns=["sample_id", "emotion", "score"])
    assert table.select(["sample_id", "emotion", "score"]).to_pydict() == plain.to_pydict()
    for name in ("voice", "words"):
        (folder,) = Path(config.path("features")).glob(f"{name}-*")
        parts = pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("part-*.parquet")))
        of_id = dict(zip(parts["sample_id"].to_pylist(), parts[name].to_pylist()))
        assert table[name].to_pylist() == [of_id[i] for i in table["sample_id"].to_pylist()]
        absent = [error is not None for error in table[f"{name}_error"].to_pylist()]
        assert absent == [value is None for value in table[name].to_pylist()]
    assert mmray.read(config.output).equals(table), "the folder says as much as the config"
    assert "voice" not in mmray.read(config, features=["words"]).column_names
    assert mmray.read(config, features=[]).num_rows == table.num_rows


def test_predictions_are_joined_by_id_and_those_of_several_models_are_named(table_project):
    config = table_project()
    ids = mmray.read(config)["sample_id"].to_pylist()
    predict(config.output, "model_a", ids[:-1])
    table = mmray.read(config)
    assert table["emotion_predicted"].to_pylist() == [*(f"p-{i}" for i in ids[:-1]), None]
    assert "prediction_error" in table.column_names
    predict(config.output, "model_b", ids)
    with pytest.raises(TableError, match="several models, name one of model_a, model_b"):
        mmray.read(config)
    assert mmray.read(config, predictions="model_b")["emotion_predicted"].null_count == 0
    assert "emotion_predicted" not in mmray.read(config, predictions="").column_names
    with pytest.raises(TableError, match="no predictions model_c here"):
        mmray.read(config, predictions="model_c")


def test_what_is_not_there_is_told(config, tmp_path):
    with pytest.raises(TableError, match="there is no index"):
        mmray.read(str(tmp_path))
    with pytest.raises(TableError, match="no complete table of nose"):
        mmray.read(config.output, features=["nose"])


def test_other_tools_take_it_further(config):
    table = mmray.read(config)
    frame = table.to_pandas()
    assert frame.groupby("split").size().to_dict() == {"test": 40, "train": 123, "val": 40}
    duckdb = pytest.importorskip("duckdb")
    counts = duckdb.arrow(table).aggregate("split, count(*) AS n", "split").order("split").fetchall()
    assert counts == [("test", 40), ("train", 123), ("val", 40)]
    files = config.path("features") + "/words-*/*.parquet"
    counted = duckdb.sql(f"SELECT count(*) FROM '{files}' WHERE len(words) = 2").fetchall()
    assert counted == [(201,)]
    polars = pytest.importorskip("polars")
    assert polars.from_arrow(table).filter(polars.col("voice").is_null()).height == table["voice"].null_count


def test_neither_torch_nor_ray_is_needed(config, tmp_path):
    code = (
        f"import sys, mmray; assert mmray.read({config.output!r}).num_rows == 203;"
        "assert not {'torch', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
