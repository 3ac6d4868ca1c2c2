"""The one table of results: models in rows, metrics in columns; terminal, Markdown, CSV, HTML, figure.

Made from the rows that stages store as JSON: of a training (`results.rows`), by what samples have, or of a
comparison over seeds.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = ["ResultsTable", "Row", "Score"]

MAIN = ("accuracy", "f1_macro", "f1_micro", "mae", "correlation", "acc2_non0", "acc7")
"""Metrics that fit beside each other; the others are in the CSV and below the fold of the page."""


@dataclass(frozen=True)
class Score:
    """A metric of a model: its value, or mean and standard deviation over seeds; the 95 % interval."""

    value: float | None
    """None: undefined."""
    std: float | None = None
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "–"
        text = f"{self.value:.3f}" + ("" if self.std is None else f" ± {self.std:.3f}")
        return text + (f" [{self.interval[0]:.3f}, {self.interval[1]:.3f}]" if self.interval else "")


@dataclass(frozen=True)
class Row:
    """A model on n rows of the test split."""

    model: str
    features: list[str]
    n: int
    scores: dict[str, Score]
    """{target/metric: score}"""
    seeds: int | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    """What else is known: validation, parameters, seconds, settings."""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Row":
        """A stored row of any kind."""
        intervals = stored.get("interval", {})
        features = stored.get("features", stored.get("present", []))
        return cls(
            model=stored.get("model", " + ".join(features) or "none"),
            features=features,
            n=stored["n"],
            scores={
                name: Score(
                    value=_defined(value["mean"] if isinstance(value, Mapping) else value),
                    std=_defined(value["std"] if isinstance(value, Mapping) else None),
                    interval=_whole(intervals.get(name)),
                )
                for name, value in stored["metrics"].items()
            },
            seeds=stored.get("seeds"),
            notes={key: stored[key] for key in NOTES if key in stored},
        )


NOTES = ("validation", "parameters", "seconds", "chosen", "single", "difference", "settings")


def _defined(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _whole(interval: Sequence[float | None] | None) -> tuple[float, float] | None:
    if not interval or interval[0] is None or interval[1] is None:
        return None
    return interval[0], interval[1]


@dataclass(frozen=True)
class ResultsTable:
    """Rows in their order; the last is the one that the others are held against."""

    rows: list[Row]
    title: str = "test split"
    first: str = "model"
    """What the first column is."""

    @classmethod
    def from_json(cls, rows: Iterable[Mapping[str, Any]], title: str = "test split", first: str = "model"):
        """Of stored rows."""
        return cls([Row.from_json(row) for row in rows], title, first)

    @property
    def metrics(self) -> list[str]:
        """All of them, as they come."""
        return list(dict.fromkeys(name for row in self.rows for name in row.scores))

    @property
    def main(self) -> list[str]:
        """Those that fit beside each other."""
        return [name for name in self.metrics if name.rpartition("/")[2] in MAIN]

    @property
    def judged(self) -> list[str]:
        """Those with an interval in some row: the main one of each target."""
        return [n for n in self.metrics if any(n in r.scores and r.scores[n].interval for r in self.rows)]

    def to_console(self) -> "Table":
        """For a terminal: the main metrics."""
        from rich.table import Table

        table = Table(title=self.title, title_justify="left", box=None, header_style="bold", pad_edge=False)
        table.add_column(self.first, no_wrap=True)
        for name in ("n", *self.main):
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.rows:
            model = row.model + (f" ({row.seeds} seeds)" if row.seeds else "")
            table.add_row(model, str(row.n), *(str(self._score(row, name)) for name in self.main))
        return table

    def to_markdown(self) -> str:
        """For a README: the main metrics, and what it took."""
        with_settings = any(row.notes.get("settings") for row in self.rows)
        settings = ["settings"] if with_settings else []
        different = list(dict.fromkeys(name for row in self.rows for name in row.notes.get("difference", {})))
        ahead = [f"{name} − best single" for name in different]
        lines = [[self.first, "n", "seeds", *self.main, *ahead, "parameters", "seconds", *settings]]
        lines.append(["---"] + ["---:"] * (len(lines[0]) - 1))
        for row in self.rows:
            parameters, seconds = row.notes.get("parameters"), row.notes.get("seconds")
            name = f"**{row.model}** (chosen)" if row.notes.get("chosen") else row.model
            cells = [name, str(row.n), _text(row.seeds)]
            cells += [str(self._score(row, name)) for name in self.main]
            cells += [_signed(row.notes.get("difference", {}).get(name)) for name in different]
            cells += ["–" if parameters is None else f"{parameters:,}", _text(seconds)]
            if with_settings:
                cells.append(", ".join(f"{k}={v}" for k, v in row.notes.get("settings", {}).items()))
            lines.append([cell.replace("|", "\\|").replace("\n", " ") for cell in cells])
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def to_csv(self) -> bytes:
        """For a program: every metric; undefined ones are empty."""
        sink = io.StringIO(newline="")
        lines = [self._flat(row) for row in self.rows]
        writer = csv.DictWriter(sink, list(dict.fromkeys(key for line in lines for key in line)))
        writer.writeheader()
        writer.writerows(lines)
        return sink.getvalue().encode()

    def _flat(self, row: Row) -> dict[str, Any]:
        line: dict[str, Any] = {"model": row.model, "n": row.n, "seeds": row.seeds}
        line["features"] = " ".join(row.features)
        for name in self.metrics:
            score = self._score(row, name)
            line |= {f"{name} mean": score.value, f"{name} std": score.std}
            if name in self.judged:
                low, high = score.interval or (None, None)
                line |= {f"{name} low": low, f"{name} high": high}
        settings = row.notes.get("settings", {})
        notes = {key: row.notes[key] for key in NOTES[:4] if key in row.notes}
        for name, (value, low, high) in row.notes.get("difference", {}).items():
            notes |= {f"{name} ahead": value, f"{name} ahead low": low, f"{name} ahead high": high}
        return line | notes | {"settings": " ".join(f"{key}={value}" for key, value in settings.items())}

    def to_html(self) -> Markup:
        """For a page: the main metrics, and under a fold every metric, with the models in columns."""
        head = [self.first, "samples", *(["seeds"] if any(row.seeds for row in self.rows) else [])]
        body = []
        for row in self.rows:
            seeds = [_text(row.seeds)] if len(head) == 3 else []
            cells = [row.model, f"{row.n:,}", *seeds]
            body.append([*cells, *(_in_html(self._score(row, name)) for name in self.main)])
        main = _html([*head, *self.main], body, last=self.first == "model")
        every = _html(
            ["metric", *(row.model for row in self.rows)],
            [[name, *(_in_html(self._score(row, name)) for row in self.rows)] for name in self.metrics],
        )
        return Markup("{}<details><summary>every metric</summary>{}</details>").format(main, every)

    def to_figures(self) -> "dict[str, Figure]":
        """{target/metric: its value by model}, of each target's main metric."""
        from mmray.results.plots import scores_figure

        drawn = {}
        for name in self.judged:
            scores = [self._score(row, name) for row in self.rows]
            models = [row.model for row in self.rows]
            values, intervals = [s.value for s in scores], [s.interval for s in scores]
            drawn[name] = scores_figure(name, models, values, intervals)
        return drawn

    def _score(self, row: Row, name: str) -> Score:
        return row.scores.get(name, Score(None))


def _signed(difference: Sequence[float | None] | None) -> str:
    """A difference and its interval."""
    if not difference or difference[0] is None:
        return "–"
    value, low, high = difference
    return f"{value:+.3f}" + ("" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]")


def _text(value: Any) -> str:
    return "–" if value is None else str(value)


def _in_html(score: Score) -> Markup:
    number, _, interval = str(score).partition(" [")
    if not interval:
        return escape(number)
    return Markup('{}<br><span class="interval">[{}</span>').format(number, interval)


def _html(head: Sequence[str], body: Sequence[Sequence[Any]], *, last: bool = False) -> Markup:
    """A table that scrolls by itself where it is wider than the page; after the first column, numbers."""

    def line(cells: Sequence[Any], tag: str) -> Markup:
        first = Markup("<{0}>{1}</{0}>").format(tag, cells[0])
        others = (Markup('<{0} class="n">{1}</{0}>').format(tag, cell) for cell in cells[1:])
        return first + Markup("").join(others)

    rows = [
        Markup('<tr class="fused">{}</tr>' if last and i == len(body) - 1 else "<tr>{}</tr>").format(
            line(cells, "td")
        )
        for i, cells in enumerate(body)
    ]
    inside = Markup("<tr>{}</tr>").format(line(head, "th")) + Markup("\n").join(rows)
    return Markup('<div class="scroll" tabindex="0"><table>{}</table></div>').format(inside)
