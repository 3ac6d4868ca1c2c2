"""What a log says while a stage works."""

import io
import json
import re
import subprocess
import sys
import time
from datetime import datetime
from typing import IO, cast

import pytest
from rich.console import Console

from mmray import console


@pytest.fixture
def log(monkeypatch) -> io.StringIO:
    """What is printed on stderr, which is no terminal."""
    text = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=text, force_terminal=False, width=40))
    monkeypatch.setattr(console, "LINE_S", 0.02)
    return text


def awaited(log: io.StringIO, pattern: str) -> str:
    deadline = time.monotonic() + 30
    while not (found := re.search(pattern, log.getvalue())):
        assert time.monotonic() < deadline, log.getvalue()
        time.sleep(0.01)
    return found[0]


def test_a_log_has_a_line_now_and_then_with_rate_time_left_and_note(log):
    with console.progress("extract", total=1000, done=400) as meter:
        awaited(log, r"(?m)^extract 400/1000, 0\.0/s, \d+ s so far$")
        meter.advance(100, "3 failed")
        awaited(log, r"(?m)^extract 500/1000, [\d.]+/s, \d+ s left, \d+ s so far; 3 failed$")
    count = len(log.getvalue().splitlines())
    time.sleep(0.1)
    assert len(log.getvalue().splitlines()) == count, "no line after the end"


def test_an_unknown_total_has_no_time_left(log):
    with console.progress("tune", total=None) as meter:
        meter.advance(2)
        assert "left" not in awaited(log, r"(?m)^tune 2,.*$")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (99, "99 s"), (150, "2 min"), (12_000, "3 h 20 min"), (3_599, "1 h 0 min")],
)
def test_durations(seconds, said):
    assert console.duration(seconds) == said


def test_a_log_for_programs_is_an_object_a_line(monkeypatch):
    text = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=cast(IO[str], console.JsonLines(text)), width=10_000))
    monkeypatch.setattr(console, "LINE_S", 0.02)
    console.err.print("waiting: 2 CPUs needed,\n0 free", markup=False)
    with console.progress("extract", total=10, done=4) as meter:
        meter.advance(3, "1 failed")
        awaited(text, '"done": 7')
    lines = [json.loads(line) for line in text.getvalue().splitlines()]
    assert [line["message"] for line in lines[:2]] == ["waiting: 2 CPUs needed,", "0 free"]
    told = next(line for line in lines if line.get("done") == 7)
    assert (told["stage"], told["total"], told["note"]) == ("extract", 10, "1 failed")
    assert datetime.fromisoformat(told["time"]).tzinfo is not None


def test_the_format_of_the_log_is_an_option(tmp_path):
    command = [sys.executable, "-m", "mmray", "check", "nowhere.yaml", "--log-format", "xml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "'text', 'json'" in done.stderr
