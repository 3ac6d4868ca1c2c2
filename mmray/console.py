"""What a person sees while a stage works and when it ends: progress on stderr, summaries on stdout."""

import io
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from mmray.results.table import ResultsTable
from mmray.storage.strict_json import dumps

__all__ = [
    "duration",
    "err",
    "failure_table",
    "out",
    "progress",
    "show_results",
]

LINE_S = 30.0  # between two lines of progress in a log
LOG_FORMAT = "MMRAY_LOG_FORMAT"
"""A variable of the environment; `json`: what goes to stderr is an object a line."""


class JsonLines(io.TextIOBase):
    """A stream on which every line becomes an object, {time, message}, for programs that gather logs."""

    def __init__(self, stream: IO[str]):
        self.stream, self.begun = stream, ""

    def write(self, text: str) -> int:
        """Text that ends a line, or goes on with one."""
        *whole, self.begun = (self.begun + text).split("\n")
        for line in whole:
            if line.strip():
                self.emit(message=line.strip())
        return len(text)

    def emit(self, **fields: Any) -> None:
        """One object, with the time."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.stream.write(dumps({"time": now, **fields}) + "\n")
        self.stream.flush()

    def flush(self) -> None:
        """Lines are written when they end."""


def _stderr() -> Console:
    if os.environ.get(LOG_FORMAT) == "json":
        return Console(file=cast(IO[str], JsonLines(sys.stderr)), highlight=False, width=10_000)
    return Console(stderr=True, highlight=False)


# Not a terminal: a table is for a file or a log, which must not be folded at 80.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
err = _stderr()


class Meter:
    """A running count of rows and failures: a bar in a terminal, a line every `LINE_S` in a log."""

    def __init__(self, what: str, total: int | None, done: int, bar: Progress | None):
        self.what = what
        self.total = total
        self.before = self.done = done
        self.note = ""
        self.bar = bar
        self.task = bar and bar.add_task(what, total=total, completed=done, note="")
        self.start = time.monotonic()

    def advance(self, rows: int, note: str = "") -> None:
        """Count `rows` more as done."""
        self.done += rows
        self.note = note
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, advance=rows, note=note)

    def record(self) -> dict[str, Any]:
        """How far it is, for a program: {stage, done, total, per_s, left_s, seconds, note}."""
        seconds = time.monotonic() - self.start
        rate = (self.done - self.before) / seconds if seconds else 0.0
        left = round((self.total - self.done) / rate, 1) if self.total and rate else None
        told = {"stage": self.what, "done": self.done, "total": self.total, "per_s": round(rate, 4)}
        return {**told, "left_s": left, "seconds": round(seconds, 1), "note": self.note}

    def line(self) -> str:
        """How far it is, in a line of a log: `extract 640/1200, 12.5/s, 45 s left; 3 failed`."""
        seconds = time.monotonic() - self.start
        rate = (self.done - self.before) / seconds if seconds else 0.0
        parts = [f"{self.what} {self.done}" + (f"/{self.total}" if self.total else "")]
        parts.append(f"{rate:.1f}/s" if rate >= 1 or not rate else f"{60 * rate:.1f}/min")
        if self.total and rate:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        parts.append(f"{duration(seconds)} so far")
        return ", ".join(parts) + (f"; {self.note}" if self.note else "")


@contextmanager
def progress(what: str, *, total: int | None, done: int = 0) -> Iterator[Meter]:
    """How far it is, on stderr: a bar in a terminal, elsewhere (a job's log) a line every 30 seconds."""
    if not err.is_terminal:
        with _lines(Meter(what, total, done, None)) as meter:
            yield meter
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=err,
    )
    with bar:
        yield Meter(what, total, done, bar)


@contextmanager
def _lines(meter: Meter) -> Iterator[Meter]:
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(LINE_S):
            if isinstance(err.file, JsonLines):
                err.file.emit(**meter.record())
            else:
                err.print(meter.line(), markup=False, soft_wrap=True)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield meter
    finally:
        ended.set()
        thread.join()


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def failure_table(failures: Sequence[Mapping[str, Any]]) -> Table:
    """Failures by feature and reason."""
    table = Table(title="failures", title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in ("feature", "reason", "samples"):
        table.add_column(column, justify="right" if column == "samples" else "left")
    for failure in failures:
        table.add_row(failure["feature"] or "all", failure["reason"], str(failure["count"]))
    return table


def show_results(training: Mapping[str, Any]) -> None:
    """The results of a training; by pattern too, where the test rows do not all have the same features."""
    out.print(ResultsTable.from_json(training["rows"]).to_console())
    if len(patterns := training.get("patterns", [])) > 1:  # absent in results of mmray 0.1
        by = "test split, by what a sample has"
        out.print(ResultsTable.from_json(patterns, by, "features").to_console())


def show(stage: str, summary: Mapping[str, Any], config_path: str) -> None:
    """A stage's summary: what was done, what failed, where it is, what comes next."""
    out.print(f"\n[bold]{stage}[/]")
    if stage in _SHOW:
        _SHOW[stage](summary)
    out.print(f"  output   {summary['output']}", markup=False, soft_wrap=True)
    if stage in _NEXT and config_path:
        told = os.environ.get("MMRAY_SUBMITTED_AS")  # in a job: its config where it was submitted
        next_command = _NEXT[stage].format(**{**summary, "config": told or config_path})
        if told:
            next_command = next_command.replace("mmray ", "mmray submit ", 1)
        out.print(f"  next     {next_command}", markup=False, soft_wrap=True)


def _show_extract(summary: Mapping[str, Any]) -> None:
    here = summary["rows_this_run"]
    out.print(f"  rows     {summary['rows']} in {summary['partitions']} files; {here} done now")
    if summary["retried"]:
        out.print(f"  retried  {summary['retried']} rows, {summary['recovered']} of them whole now")
    for note in summary["notes"]:
        out.print(f"  note     {note}", markup=False, soft_wrap=True)
    out.print(f"  failed   {summary['failed_rows']} rows")
    if summary["failures"]:
        out.print(failure_table(summary["failures"]))
    if not here:
        return
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in summary["stage_seconds"].items())
    pools = f"{summary['actors']}" + (f" + {summary['encoders']} encoders" if summary["encoders"] else "")
    memory = ", ".join(f"{pool} {peak} MB" for pool, peak in summary["peak_rss_mb"].items())
    out.print(
        f"  speed    {summary['samples_per_s']:.1f} samples/s, {summary['mb_per_s']:.2f} MB/s of media; "
        f"{summary['seconds']:.1f} s"
    )
    out.print(f"  actors   {pools} ({summary['placement']}); seconds in all of them: {stages}")
    out.print(f"  used     {summary['cpu_seconds']:.1f} CPU seconds; peak memory of {memory}")
    if summary["cost_per_1000"] is not None:
        out.print(f"  cost     {summary['cost_per_1000']:.4g} per 1,000 samples")


def _show_import(summary: Mapping[str, Any]) -> None:
    here = summary["rows_this_run"]
    splits = ", ".join(f"{name or 'no split'} {count}" for name, count in sorted(summary["splits"].items()))
    out.print(f"  rows     {summary['rows']} ({splits}) in {summary['partitions']} files; {here} done now")
    for note in summary["notes"]:
        out.print(f"  note     {note}", markup=False, soft_wrap=True)
    out.print(f"  failed   {summary['failed_rows']} rows")
    if summary["failures"]:
        out.print(failure_table(summary["failures"]))


def _show_train(summary: Mapping[str, Any]) -> None:
    mapped = ", features mapped from disk" if summary.get("mapped") else ""
    out.print(
        f"  epochs   {len(summary['history'])}, best {summary['best_epoch']} by {summary['monitor']}; "
        f"{summary['workers']} workers, {summary['seconds']:.1f} s{mapped}"
    )
    if summary["transfer"]:
        out.print(f"  start    {summary['transfer']}", markup=False)
    for warning in summary.get("warnings", []):  # absent in results of mmray 0.1
        out.print(f"  note     {warning}", markup=False)
    show_results(summary)


def _show_tune(summary: Mapping[str, Any]) -> None:
    out.print(f"  trials   {summary['trials']} ({summary['failed']} failed) in {summary['seconds']:.1f} s")
    out.print(f"  best     {summary['monitor']} {summary['best_value']:.4f} with {summary['best_settings']}")
    expected = summary["expected_best"]
    few = max(1, len(expected) // 4)
    out.print(
        f"  expected {expected[few - 1]:.4f} of {few} such trials, {expected[-1]:.4f} of {len(expected)}"
    )
    for name, share in summary["importance"].items():
        out.print(f"  matters  {share:.2f} {name}")
    if summary["test"]["rows"]:
        out.print(ResultsTable.from_json(summary["test"]["rows"], "winner on the test split").to_console())
    for run, fault in summary["test"]["failed"].items():
        out.print(f"  failed   {run}: {fault}", markup=False)
    out.print(f"  table    {summary['table']}")


def _show_score(summary: Mapping[str, Any]) -> None:
    rate = f", {summary['rows_this_run'] / summary['seconds']:.0f} rows/s" if summary["rows_this_run"] else ""
    out.print(f"  rows     {summary['rows']}; {summary['rows_this_run']} done now{rate}")
    out.print(f"  without  {summary['unpredicted']} rows had nothing to predict from")
    if summary.get("abstained"):
        out.print(f"  held     {summary['abstained']} rows were not sure enough")
    for note in summary.get("notes", []):
        out.print(f"  note     {note}", markup=False, soft_wrap=True)


def _show_compare(summary: Mapping[str, Any]) -> None:
    out.print(
        f"  runs     {summary['runs']}; {summary['runs_now']} done now in {summary['seconds']:.1f} s; "
        f"variants chosen on val by {summary['monitor']}"
    )
    out.print(ResultsTable.from_json(summary["rows"]).to_console())
    for note in summary["notes"]:
        out.print(f"  note     {note}", markup=False, soft_wrap=True)
    for run, fault in summary["failed"].items():
        out.print(f"  failed   {run}: {fault}", markup=False)
    out.print(f"  table    {summary['table']}")


_SHOW = {
    "compare": _show_compare,
    "extract": _show_extract,
    "import-features": _show_import,
    "train": _show_train,
    "tune": _show_tune,
    "score": _show_score,
}
_NEXT = {
    "extract": "mmray train {config}",
    "import-features": "mmray train {config}",
    "compare": "mmray report {config}",
    "train": "mmray score {config}",
    "tune": "mmray train {best_config}",
    "score": "mmray evaluate {config}",
}
