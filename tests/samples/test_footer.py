"""The footer read here against pyarrow's reading of it."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmray.samples.footer import null_counts


def written(table: pa.Table, **options) -> io.BytesIO:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file


@pytest.mark.parametrize(
    "options", [{}, {"version": "1.0"}, {"compression": "zstd", "write_page_index": True}]
)
def test_null_counts_are_pyarrows(options):
    cells = [{"bytes": b"x" * i, "path": None} if i % 3 else {"bytes": None, "path": "a"} for i in range(100)]
    table = pa.table(
        {"audio": cells, "n": [None, 1] * 50, "on": [True] * 100, **{f"c{i}": ["é"] * 100 for i in range(20)}}
    )
    file = written(table, row_group_size=30, **options)
    metadata = pq.read_metadata(file)
    expected = [
        {
            group.column(i).path_in_schema: group.column(i).statistics.null_count
            for i in range(group.num_columns)
        }
        for group in (metadata.row_group(number) for number in range(4))
    ]
    assert null_counts(file) == expected
    assert expected[0]["audio.bytes"] == 10


def test_a_column_without_statistics_says_nothing():
    assert null_counts(written(pa.table({"n": [1]}), write_statistics=False)) == [{}]


@pytest.mark.parametrize("data", [b"", b"PAR1", b"\xff\xff\xff\x7fPAR1", b"\x9c" * 40 + b"\x28\0\0\0PAR1"])
def test_what_is_no_footer_is_refused(data):
    with pytest.raises(ValueError, match="footer"):
        null_counts(io.BytesIO(data))
