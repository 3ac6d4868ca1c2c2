"""One table of results in every form: the same figures, read back by other readers."""

import io
import re

import pandas as pd
import pytest
from markupsafe import escape
from rich.console import Console

from mmray.results.table import ResultsTable

EVIL = "<b>|\n"
ROWS = [
    {"model": "majority", "features": [], "n": 1200, "seeds": None, "settings": {}, "parameters": 0}
    | {"metrics": {"mood/accuracy": {"mean": 0.25, "std": None}, "mood/nll": {"mean": None, "std": None}}},
    {"model": EVIL, "features": ["face"], "n": 1200, "seeds": 5, "settings": {"a.b": 1}, "parameters": 12345}
    | {"metrics": {"mood/accuracy": {"mean": 0.8126, "std": 0.01}, "mood/nll": {"mean": 0.5, "std": 0.1}}}
    | {"interval": {"mood/accuracy": [0.75, 0.87]}, "seconds": 3.5},
]
TABLE = ResultsTable.from_json(ROWS)


def test_console_shows_the_main_metrics():
    sink = io.StringIO()
    Console(file=sink, width=200).print(TABLE.to_console())
    text = sink.getvalue()
    assert "0.813 ± 0.010 [0.750, 0.870]" in text
    assert "(5 seeds)" in text
    assert "nll" not in text


def test_markdown_has_a_line_a_model_whatever_its_name():
    lines = TABLE.to_markdown().splitlines()
    assert lines[0] == "| model | n | seeds | mood/accuracy | parameters | seconds | settings |"
    assert lines[2] == "| majority | 1200 | – | 0.250 | 0 | – |  |"
    assert lines[3] == "| <b>\\|  | 1200 | 5 | 0.813 ± 0.010 [0.750, 0.870] | 12,345 | 3.5 | a.b=1 |"


def test_csv_is_read_back_with_every_metric():
    back = pd.read_csv(io.BytesIO(TABLE.to_csv()))
    assert back["model"].tolist() == ["majority", EVIL]
    assert back["mood/accuracy mean"].tolist() == [0.25, 0.8126]
    assert back["mood/accuracy low"][1] == 0.75  # pyright: ignore[reportGeneralTypeIssues]
    assert pd.isna(back["mood/nll mean"][0])  # pyright: ignore[reportGeneralTypeIssues]
    assert back["mood/nll std"][1] == 0.1  # pyright: ignore[reportGeneralTypeIssues]


def test_html_escapes_names_and_keeps_every_metric():
    html = TABLE.to_html()
    assert "<b>|" not in html
    assert "&lt;b&gt;" in html
    heads = [re.findall(r"<th[^>]*>(.*?)</th>", table, re.S) for table in html.split("<details>")]
    assert heads == [["model", "samples", "seeds", "mood/accuracy"], ["metric", "majority", escape(EVIL)]]
    assert re.findall(r"<td>(mood/.*?)</td>", html) == ["mood/accuracy", "mood/nll"]


def test_figures_are_of_the_metrics_with_an_interval():
    figures = TABLE.to_figures()
    assert list(figures) == ["mood/accuracy"]
    heights = [line.get_ydata()[0] for line in figures["mood/accuracy"].axes[0].lines]  # pyright: ignore[reportIndexIssue]
    assert heights == pytest.approx([0, 0, 1])


def test_rows_of_a_training_and_by_what_samples_have():
    stored = [{"present": ["face", "voice"], "n": 3, "metrics": {"mood/accuracy": 1.0}}]
    (row,) = ResultsTable.from_json([*stored], first="features").rows
    assert (row.model, str(row.scores["mood/accuracy"])) == ("face + voice", "1.000")
    assert ResultsTable.from_json([{"present": [], "n": 0, "metrics": {}}]).rows[0].model == "none"
