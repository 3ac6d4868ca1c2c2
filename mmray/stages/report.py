"""What the stages left below `output` → one HTML page that needs nothing beside itself.

Each stage is read from its own files; one that has not run yet is said plainly, with the command that
runs it. Tables are streamed part by part, and of the feature table only ids, splits, targets and errors
are read: its vectors stay where they are.
"""

import csv
import io
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from matplotlib.figure import Figure

from mmray import __version__
from mmray.config import (
    Config,
    ConfigLike,
    as_config,
    dump_config,
)
from mmray.errors import TableError
from mmray.results.plots import (
    noise_figure,
    reliability_figure,
    shares_figure,
    to_svg,
    training_figure,
    trials_figure,
)
from mmray.results.predictions import judged
from mmray.results.table import ResultsTable
from mmray.samples.index import known_index
from mmray.stages.compare import finished_comparison
from mmray.stages.evaluate import evaluations_folder
from mmray.stages.explain import explanations_folder
from mmray.stages.extract import extract_summary
from mmray.stages.thumbnails import seen_of
from mmray.stages.train import trained
from mmray.stages.tune import search_folder
from mmray.storage.filesystem import Storage
from mmray.tables.features import Data as Tables
from mmray.tables.features import complete_tables
from mmray.tables.parts import read_partition, read_table
from mmray.tables.schemas import errors_of

__all__ = ["report", "write_report"]

SPLITS = ("train", "val", "test")
NO_SPLIT = "none"
EXAMPLES = 5  # ids shown for a reason of failure
LINES = 100  # shown of a long table
WRONG = 8  # samples of a target


def report(config: ConfigLike) -> dict[str, str]:
    """Write all that was done so far as one HTML page below `output`; returns {output: where it is}.

    Raises:
        StorageError: where the files cannot be read or the report cannot be written.
    """
    config = as_config(config)
    return {"output": write_report(config.output, Storage(config.storage), config)}


def write_report(output: str, storage: Storage, config: Config) -> str:
    """Write `report.html` below `output`; returns where it is.

    Raises:
        StorageError: where the files cannot be read or the report cannot be written.
    """
    output = output.rstrip("/")
    tables = _tables(config, storage)
    whole = tables is not None and tables.tables.keys() == config.features.keys()
    train = trained(config, storage, tables) if tables and whole else None
    extract = extract_summary(config, storage, tables.index, tables.tables) if tables else None
    data = tables and _data(config, storage, tables)
    results = _results(train)
    page = _template().render(
        config=config,
        config_yaml=dump_config(config),
        output=output,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        tables=tables.fingerprints if tables else {},
        data=data,
        leaks=tables.index.leaks if tables else [],
        extract=extract,
        rate=_rate(extract),
        train=train,
        results=results,
        patterns=_patterns(train),
        training_plot=train
        and _svg("training", training_figure(train["history"], train["best_epoch"], train["monitor"])),
        score_plots=_figures(results, "scores"),
        predictions=train
        and _predictions(config, storage, f"{output}/predictions/{train['model_fingerprint']}"),
        evaluation=train and tables and _evaluation(config, storage, tables, train["model_fingerprint"]),
        explanation=train and _explanation(output, storage, train["model_fingerprint"]),
        comparison=_comparison(finished_comparison(config, storage, tables) if tables and whole else None),
        trials=_trials(storage, search_folder(config, storage, tables)) if tables and whole else None,
        max_lines=LINES,
    )
    report = f"{output}/report.html"
    storage.write(report, page.encode())
    return report


# ------------------------------------------------------------------------------------ data


@dataclass
class Data:
    """What the feature table says of the samples, counted."""

    rows: int = 0
    failed_rows: int = 0
    splits: Counter = field(default_factory=Counter)
    classes: dict[str, dict[str, Counter]] = field(default_factory=dict)
    """{target: {class: {split: samples}}}."""
    numbers: dict[str, dict[str, "Spread"]] = field(default_factory=dict)
    """{target: {split: its distribution}}."""
    failures: Counter = field(default_factory=Counter)
    """{(feature, reason): samples}."""
    examples: dict[tuple[str, str], list[dict]] = field(default_factory=lambda: defaultdict(list))

    @property
    def split_names(self) -> list[str]:
        """The splits that have samples, in the order of their use."""
        return [split for split in (*SPLITS, NO_SPLIT) if self.splits[split]]


@dataclass
class Spread:
    """Count, mean, standard deviation and range of numbers that pass by (Chan et al. 1979)."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: np.ndarray) -> None:
        """Count `values` [N] too."""
        if not len(values):
            return
        shift, total = values.mean() - self.mean, self.n + len(values)
        self.squares += ((values - values.mean()) ** 2).sum() + shift**2 * self.n * len(values) / total
        self.mean += shift * len(values) / total
        self.n = total
        self.low, self.high = min(self.low, values.min()), max(self.high, values.max())

    @property
    def std(self) -> float:
        """Of the population."""
        return math.sqrt(self.squares / self.n) if self.n else math.nan


def _tables(config: Config, storage: Storage) -> Tables | None:
    """The index and the complete tables as they are; None where nothing was extracted yet."""
    try:
        index = known_index(config, storage)
    except TableError:
        return None
    return Tables.of(storage, index, complete_tables(config, storage, index))


def _data(config: Config, storage: Storage, tables: Tables) -> Data:
    data = Data()
    for partition in tables.index.partitions.tolist():
        samples = tables.index.read(storage, partition, ["sample_id", "split", *config.targets])
        errors = [
            error
            for name, table in tables.tables.items()
            for error in errors_of(
                read_partition(storage, table.folder, partition, ["sample_id", "error"]), name
            )
        ]
        ids = set(samples["sample_id"].to_pylist())
        _count(data, config, samples, [error for error in errors if error["sample_id"] in ids])
    return data


def _count(data: Data, config: Config, part: pa.Table, errors: list[dict]) -> None:
    splits = np.array([split or NO_SPLIT for split in part["split"].to_pylist()], dtype=object)
    data.rows += part.num_rows
    data.splits.update(splits)
    for name, target in config.targets.items():
        if not pa.types.is_floating(target.arrow_type):
            classes = data.classes.setdefault(name, defaultdict(Counter))
            for truth, split in zip(part[name].to_pylist(), splits):
                for label in ["(unknown)"] if truth is None else _labels(truth):
                    classes[label][split] += 1
        else:
            spreads = data.numbers.setdefault(name, defaultdict(Spread))
            values = part[name].to_numpy().astype(float)
            for split in set(splits):
                here = values[splits == split]
                spreads[split].add(here[~np.isnan(here)])
    data.failed_rows += len({error["sample_id"] for error in errors})
    for error in errors:
        where = error["feature"], error["reason"]
        data.failures[where] += 1
        if len(data.examples[where]) < EXAMPLES:
            data.examples[where].append(error)


def _labels(truth: str | list[str]) -> list[str]:
    """A class, or the classes of a set; an empty one counts too."""
    return [truth] if isinstance(truth, str) else truth or ["(none)"]


def _rate(extract: Mapping[str, Any] | None) -> float | None:
    """Samples a second of the last run that extracted any."""
    rows = extract and extract.get("rows_this_run", extract["rows"])
    return rows / extract["seconds"] if extract and rows and extract["seconds"] else None


# ------------------------------------------------------------------------------------ training


def _results(train: Mapping[str, Any] | None) -> ResultsTable | None:
    """Majority first, then single features, the fused model last."""
    if train is None:
        return None
    ordered = sorted(train["rows"], key=lambda row: len(row["features"]) + (row["model"] == "fused"))
    return ResultsTable.from_json(ordered)


def _patterns(train: Mapping[str, Any] | None) -> ResultsTable | None:
    """By the features samples have; None where all test samples have the same."""
    rows = train.get("patterns", []) if train else []  # absent in results of mmray 0.1
    return ResultsTable.from_json(rows, first="features") if len(rows) > 1 else None


def _figures(table: ResultsTable | None, name: str) -> list[Markup]:
    """For each target, its main metric (the one with an interval) by model."""
    figures = table.to_figures().values() if table else []
    return [_svg(f"{name}-{i}", figure) for i, figure in enumerate(figures)]


# ------------------------------------------------------------------------------------ predictions


@dataclass
class Predictions:
    """What the prediction table of the trained model says of the test split."""

    summary: Mapping[str, Any]
    n: dict[str, int]
    """{target: test rows with a truth and a prediction}."""
    plots: list[Markup]


def _predictions(config: Config, storage: Storage, folder: str) -> Predictions | None:
    summary = storage.read_json(f"{folder}/_summary.json")
    if summary is None:
        return None
    counts, plots = {}, []
    for name, found in judged(_of_split(read_table(storage, folder), "test")).items():
        counts[name] = len(found.truth)
        if len(found.truth):
            figure = found.target.figure(found.predicted, found.truth, name)
            plots.append(_svg(f"predictions-{name}", figure))
            if sure := found.target.confidence(found.predicted, found.truth):
                plots.append(_svg(f"reliability-{name}", reliability_figure(*sure, name)))
    return Predictions(summary, counts, plots)


def _of_split(tables: Iterable[pa.Table], split: str) -> Iterator[pa.Table]:
    return (table.filter(pc.equal(table["split"], split)) for table in tables)  # pyright: ignore[reportAttributeAccessIssue]


# ------------------------------------------------------------------------------------ evaluation, explanation


def _evaluation(config: Config, storage: Storage, tables: Tables, model: str) -> dict[str, Any] | None:
    """What `mmray evaluate` found of the model's predictions, and what its most wrong samples look like."""
    folder = evaluations_folder(config.path("predictions", model))
    found = storage.read_json(f"{folder}/evaluation.json")
    if found is None:
        return None
    wrong = [row["sample_id"] for told in found["targets"].values() for row in told["wrong"][:WRONG]]
    seen = seen_of(config, storage, tables.index, list(dict.fromkeys(wrong)))
    return {"targets": found["targets"], "seen": seen, "wrong": WRONG}


def _explanation(output: str, storage: Storage, model: str) -> dict[str, Any] | None:
    """What `mmray explain` found of the model, with its figures."""
    found = storage.read_json(f"{explanations_folder(output, model)}/explanation.json")
    if found is None:
        return None
    plots = {
        name: [
            _svg(
                f"modalities-{name}",
                shares_figure(told["modalities"]["mean"], f"{name}: mean |Shapley value|"),
            ),
            _svg(
                f"noise-{name}",
                noise_figure(
                    told["robustness"]["noise"], told["modalities"]["all"], f"{name}: {told['main']}"
                ),
            ),
        ]
        for name, told in found["targets"].items()
    }
    return {**found, "plots": plots}


# ------------------------------------------------------------------------------------ the rest


def _comparison(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    table = ResultsTable.from_json(found["rows"])
    return {"table": table, "plots": _figures(table, "compare"), "notes": found.get("notes", [])}


def _trials(storage: Storage, folder: str) -> dict[str, Any] | None:
    table = f"{folder}/trials.csv"
    if not storage.exists(table):
        return None
    reader = csv.DictReader(io.StringIO(storage.read(table).decode(), newline=""))
    found = {"rows": list(reader), "columns": reader.fieldnames or [], "search": None}
    summary = storage.read_json(f"{folder}/_summary.json")
    if summary is not None:
        winner = summary["test"]["rows"]
        found["search"] = {
            "monitor": summary["monitor"],
            "expected": summary["expected_best"],
            "importance": summary["importance"],
            "winner": ResultsTable.from_json(winner) if winner else None,
            "plot": _svg("trials", trials_figure(summary["curves"], summary["monitor"])),
        }
    return found


def _svg(name: str, figure: Figure) -> Markup:
    return Markup(to_svg(figure, name))  # matplotlib escapes the texts in it


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _format
    return environment.from_string(files("mmray.results").joinpath("page.html").read_text("utf-8"))


def _format(value: Any, digits: int = 3) -> str:
    """A number for people; an undefined one as a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"
