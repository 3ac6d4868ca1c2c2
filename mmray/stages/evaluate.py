"""Predictions with truths → what they are worth, where they are weak, and against another model's.

    OUTPUT/predictions/NAME ─┐    OUTPUT/evaluations/NAME/
    OUTPUT/samples (columns) ┼──▶ evaluation.json splits.csv subgroups.csv wrong.csv
    another table, or none ──┘

No Ray: a table of predictions is small. What is said of it is in `mmray.results.evaluation`.
"""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mmray import console
from mmray.config import Config, ConfigLike, as_config
from mmray.config.samples import MEDIA_SOURCES
from mmray.errors import TableError
from mmray.results.card import CARD, card
from mmray.results.evaluation import compared, evaluation, subgroups_of, subset
from mmray.results.predictions import Judged, judged
from mmray.results.table import ResultsTable
from mmray.samples.index import Index, index_at
from mmray.stages.score import predictions_made_from
from mmray.stages.train import model_folder, trained
from mmray.storage.filesystem import Storage
from mmray.storage.uris import absolute
from mmray.tables.features import FeatureTable, places_of, require_data
from mmray.tables.parts import read_table
from mmray.tables.read import complete_below
from mmray.tables.schemas import version_of

__all__ = ["evaluate", "evaluations_folder", "is_config", "predictions_of", "show"]

FIXED = {
    *("sample_id", "split", "group", "start_s", "end_s", "media_key"),
    *MEDIA_SOURCES,
    *map(version_of, MEDIA_SOURCES),
}
"""Columns of every index."""
DURATION, LENGTH = "duration_s", "_length"


def evaluate(
    predictions: ConfigLike,
    *,
    by: Sequence[str] = (),
    against: str | None = None,
    split: str | None = None,
    output: str | None = None,
) -> dict[str, Any]:
    """Judge predictions whose truths are known: every metric with its interval, by split and by subgroup.

    Args:
        predictions: A config, whose model's predictions are meant; or a folder of predictions, local or s3://.
        by: Columns of the index (`samples.keep`) or of the predictions; `present`; `duration_s`; the steps
            of a feature, `NAME_length`. Default: `present` and all kept columns.
        against: Another folder of predictions of the same samples: paired differences.
        split: What subgroups and examples are about: `test` (where there are such rows), another, or `all`.
        output: Where the tables go; default: `OUTPUT/evaluations/NAME`.

    Returns:
        {predictions, rows, unpredicted, targets: {target: `mmray.results.evaluation.evaluation`}, output}.

    Raises:
        TableError: where there are no predictions, none has a truth, or a column is not there.
    """
    storage, folder, project = _located(predictions)
    config = as_config(predictions) if is_config(predictions) else None
    table = _table(storage, folder)
    found = judged([table])
    if not any(len(each.truth) for each in found.values()):
        raise TableError(f"{folder}: no prediction has a known truth beside it; score samples with labels")
    table, kept = _with_columns(storage, table, project, by)
    wanted = list(dict.fromkeys(by or ("present", *kept)))
    if strange := [name for name in wanted if name not in table.column_names]:
        there = ", ".join(sorted({*table.column_names} - {"sample_id"}))
        raise TableError(f"no column {', '.join(strange)} to evaluate by; there are {there}")
    cuts = {name: subgroups_of(table[name]) for name in wanted}
    groups = _groups(table)
    targets = {name: evaluation(each, table, groups, cuts, split) for name, each in found.items()}
    if against is not None:
        beside = _table(storage, absolute(against).rstrip("/"))
        other = judged([beside])
        if lacking := sorted(found.keys() - other.keys()):
            raise TableError(f"{against}: has no target {', '.join(lacking)}")
        for name, told in targets.items():
            some = _of_split(found[name], table, told["split"])
            told["against"] = compared(
                name, some, _ids(table, some), other[name], _ids(beside, other[name]), groups[some.rows]
            )
    summary = {
        "predictions": folder,
        "against": against,
        "rows": table.num_rows,
        "unpredicted": table.num_rows - table["error"].null_count,
        "targets": targets,
        "output": output.rstrip("/") if output else evaluations_folder(folder),
    }
    _write(storage, summary)
    if config:
        _onto_the_card(config, storage, summary)
    return summary


def _onto_the_card(config: Config, storage: Storage, summary: Mapping[str, Any]) -> None:
    """The model's card again, with its subgroups."""
    model = trained(config, storage, require_data(config, storage))
    assert model is not None, "its predictions were found"
    uri, text = f"{model_folder(config, model['run'])}/{CARD}", card(config, model, summary).encode()
    if not storage.exists(uri) or storage.read(uri) != text:
        storage.write(uri, text)


def is_config(what: object) -> bool:
    """Whether a config is meant, and no folder."""
    return isinstance(what, Config) or str(what).endswith((".yaml", ".yml", ".json"))


def evaluations_folder(predictions: str) -> str:
    """Where the evaluation of a folder of predictions goes: `OUTPUT/evaluations/NAME`, else inside it."""
    name = predictions.rpartition("/")[2]
    project = _project_of(predictions)
    return f"{project}/evaluations/{name}" if project else f"{predictions}/evaluation"


def predictions_of(config: Config, storage: Storage) -> str:
    """The folder of the predictions by the config's model of its samples as they are.

    Raises:
        TableError: where the model is not trained, or has not scored these samples.
    """
    data = require_data(config, storage)
    model = trained(config, storage, data)
    if model is None:
        raise TableError(f"{config.path('models')}: no model of this config; run `mmray train` first")
    folder = config.path("predictions", model["model_fingerprint"])
    summary = storage.read_json(f"{folder}/_summary.json")
    if summary is None or summary["made_from"] != predictions_made_from(config, data):
        raise TableError(f"{folder}: no predictions of these samples; run `mmray score` first")
    return folder


# ------------------------------------------------------------------------------------ what is read


def _located(what: ConfigLike) -> tuple[Storage, str, str]:
    """(storage, folder of predictions, output of its project or nothing)."""
    if is_config(what):
        config = as_config(what)
        storage = Storage(config.storage)
        return storage, predictions_of(config, storage), config.output.rstrip("/")
    assert not isinstance(what, Config)
    folder = absolute(os.fspath(what)).rstrip("/")
    return Storage(), folder, _project_of(folder)


def _project_of(predictions: str) -> str:
    """The output that a folder of predictions lies in; nothing where it lies alone."""
    above = predictions.rpartition("/")[0]
    return above.rpartition("/")[0] if above.rpartition("/")[2] == "predictions" else ""


def _table(storage: Storage, folder: str) -> pa.Table:
    parts = list(read_table(storage, folder))
    if not parts:
        raise TableError(f"{folder}: no predictions here; name a folder of part files, or a config (.yaml)")
    return pa.concat_tables(parts)


def _with_columns(
    storage: Storage, table: pa.Table, project: str, wanted: Sequence[str]
) -> tuple[pa.Table, list[str]]:
    """The predictions beside the columns of their samples; which of those the project keeps."""
    known = storage.read_json(f"{project}/samples/_index.json") if project else None
    if known is None or not known["files"]:
        return table, []
    index = index_at(storage, f"{project}/samples")
    columns = index.columns(storage)
    kept = [name for name in columns if name not in FIXED and name not in table.column_names]
    samples = index.small(storage, ["sample_id", "group", "start_s", "end_s", *kept])
    places = places_of(table["sample_id"], samples["sample_id"])
    samples = samples.take(pa.array(places, mask=places < 0))
    for name in samples.column_names[1:]:
        table = table.append_column(name, samples[name])
    if any(name == DURATION or name.endswith(LENGTH) for name in wanted):
        table = _measured(storage, table, project, index, wanted)
    return table, kept


def _measured(
    storage: Storage, table: pa.Table, project: str, index: Index, wanted: Sequence[str]
) -> pa.Table:
    """With `duration_s` and the `NAME_length` asked for.

    A duration is that of the segment, else what the longest of the sample's features covers.
    """
    ids = table["sample_id"]
    start, end = (table[name].to_numpy() for name in ("start_s", "end_s"))
    longest = np.full(len(ids), np.nan)
    for name, feature in complete_below(storage, f"{project}/features", index, None).items():
        steps, covered = _steps(storage, feature, ids)
        longest = np.fmax(longest, covered)
        if f"{name}{LENGTH}" in wanted:
            table = table.append_column(f"{name}{LENGTH}", pa.array(steps, from_pandas=True))
    duration = np.where(np.isnan(end), longest, end - np.nan_to_num(start))
    return table.append_column(DURATION, pa.array(duration, from_pandas=True))


def _steps(storage: Storage, feature: FeatureTable, ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Steps of each sample, and the seconds they cover, [N] float64 each; NaN where there are none."""
    columns = ["sample_id", f"{feature.name}{LENGTH}", f"{feature.name}_step_s"]
    part = pa.concat_tables(read_table(storage, feature.folder, columns))
    places = places_of(ids, part["sample_id"])
    part = part.take(pa.array(places, mask=places < 0))
    steps = part[columns[1]].cast(pa.float64()).to_numpy()
    steps = np.where(steps > 0, steps, np.nan)
    return steps, steps * part[columns[2]].cast(pa.float64()).to_numpy()


def _groups(table: pa.Table) -> np.ndarray:
    """Of each row, [N] object; one without a group is a group of its own."""
    named = table["group"].to_pylist() if "group" in table.column_names else [None] * table.num_rows
    return np.array([f"\0{row}" if group is None else group for row, group in enumerate(named)], object)


def _of_split(found: Judged, table: pa.Table, split: str) -> Judged:
    if split == "all":
        return found
    splits = np.array(table["split"].to_pylist(), dtype=object)[found.rows]
    return subset(found, np.flatnonzero(splits == split))


def _ids(table: pa.Table, found: Judged) -> np.ndarray:
    return np.array(table["sample_id"].to_pylist(), dtype=object)[found.rows]


# ------------------------------------------------------------------------------------ what is told


def _write(storage: Storage, summary: Mapping[str, Any]) -> None:
    folder, targets = summary["output"], summary["targets"].items()
    splits = [
        {
            "target": name,
            "split": row["split"],
            "n": row["n"],
            "groups": row["groups"],
            **_metric(row, metric),
        }
        for name, told in targets
        for row in told["splits"]
        for metric in row["metrics"]
    ]
    subgroups = [
        {"target": name, "column": column, "value": row["value"], "n": row["n"], "groups": row["groups"]}
        | _metric(row, metric)
        | dict(zip(("ahead", "ahead_low", "ahead_high"), row["difference"][metric]))
        for name, told in targets
        for column, rows in told["by"].items()
        for row in rows
        for metric in row["metrics"]
    ]
    wrong = [{"target": name, **row} for name, told in targets for row in told["wrong"]]
    for name, lines in {"splits": splits, "subgroups": subgroups, "wrong": wrong}.items():
        storage.write(f"{folder}/{name}.csv", _csv(lines))
    storage.write_json(f"{folder}/evaluation.json", dict(summary))


def _metric(row: Mapping[str, Any], metric: str) -> dict[str, Any]:
    low, high = row["interval"][metric]
    return {"metric": metric, "result": row["metrics"][metric], "low": low, "high": high}


def _csv(lines: Iterable[Mapping[str, Any]]) -> bytes:
    lines, sink = list(lines), io.StringIO(newline="")
    writer = csv.DictWriter(sink, list(lines[0]) if lines else ["target"])
    writer.writeheader()
    writer.writerows(lines)
    return sink.getvalue().encode()


def show(summary: Mapping[str, Any]) -> None:
    """Print what an evaluation found: splits, subgroups, what stands out, the most wrong rows."""
    console.out.print("\n[bold]evaluate[/]")
    _say(f"  rows     {summary['rows']}; {summary['unpredicted']} without a prediction")
    for name, told in summary["targets"].items():
        rows = [_line(row, row["split"], name) for row in told["splits"]]
        console.out.print(ResultsTable.from_json(rows, f"{name}, by split", "split").to_console())
        for column, subgroups in told["by"].items():
            rows = [_line(row, row["value"], name) for row in subgroups]
            title = f"{name}, {told['split']} rows, by {column}"
            console.out.print(ResultsTable.from_json(rows, title, column).to_console())
            for row in subgroups:
                far, low, high = row["difference"][told["main"]]
                if low is not None and high is not None and low * high > 0:
                    what = f"{column} {row['value']}: {told['main']}"
                    _say(f"  apart    {what} {_signed(far, low, high)} to all others, {row['n']} rows")
        if beside := told.get("against"):
            for metric, (far, low, high) in beside["difference"].items():
                if far is not None:
                    _say(f"  against  {name}/{metric} {_signed(far, low, high)} on {beside['n']} rows")
        for row in told["wrong"][:5]:
            said = f"{_shown(row['predicted'])} for {_shown(row['truth'])}, off by {row['error']:.3f}"
            _say(f"  wrong    {row['sample_id']}: {name} {said}")
    _say(f"  output   {summary['output']}")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _say(line: str) -> None:
    console.out.print(line, markup=False, soft_wrap=True)


def _signed(far: float, low: float | None, high: float | None) -> str:
    return f"{far:+.3f}" + ("" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]")


def _line(row: Mapping[str, Any], named: str, target: str) -> dict[str, Any]:
    return {
        "model": named,
        "n": row["n"],
        "metrics": {f"{target}/{metric}": value for metric, value in row["metrics"].items()},
        "interval": {f"{target}/{metric}": pair for metric, pair in row["interval"].items()},
    }
