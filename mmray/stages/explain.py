"""A trained model and its samples → why it says what it says.

    model, feature tables ──▶ OUTPUT/explanations/MODEL/
                              explanation.json     of all rows: modalities, robustness, surrogate
                              modalities.parquet   of each row: what each modality adds to its prediction
                              steps.parquet        of some rows: what each step adds
                              neighbours.parquet   of some rows: the nearest training samples

No Ray: some hundred rows say it. What is computed is in `mmray.training.explaining`.
"""

import importlib.util
import io
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmray import console
from mmray.config import ConfigLike, as_config
from mmray.distributed.feeding import load_features
from mmray.errors import SamplesError, TableError
from mmray.results.rows import number_or_null
from mmray.stages.train import trained
from mmray.storage.filesystem import Storage
from mmray.storage.scratch import scratch_folder
from mmray.tables.features import require_data
from mmray.targets import FittedTarget, known

if TYPE_CHECKING:
    from mmray.training.batches import Examples, FeatureSet
    from mmray.training.predict import Predictor

__all__ = ["explain", "explanations_folder", "show"]

LEVELS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of noise on vectors, in standard deviations."""
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Of words that are made unknown."""
NEIGHBOURS = 5


def explain(
    config: ConfigLike, *, split: str = "test", rows: int = 1000, samples: int = 12, seed: int = 0
) -> dict[str, Any]:
    """Explain the config's trained model on its own samples.

    Args:
        config: A config, or the path of one.
        split: Of which rows; of one without any, all rows are taken, and a note says so.
        rows: At most so many, drawn by `seed`; as many again of the train split for the surrogate and for
            neighbours.
        samples: Of so many of them the steps and the neighbours are told: half are the most wrong.
        seed: Of what is drawn.

    Returns:
        {model, split, rows, notes, targets: {target: {modalities, robustness, surrogate}}, output}:
        `modalities` are {mean: mean |Shapley value| of a modality in the predictions, metric: its Shapley
        value in the main metric, all, nothing}, `robustness` {without, noise: {modality: [[level, metric]]}}.

    Raises:
        TableError: where no model of this config is there, or a feature has no complete table.
        SamplesError: where no row has a modality.
    """
    from mmray.training.checkpoint import load_predictor

    start = time.perf_counter()
    config = as_config(config)
    storage = Storage(config.storage)
    data = require_data(config, storage)
    found = trained(config, storage, data)
    if found is None:
        raise TableError(f"{config.path('models')}: no model of this config here; run `mmray train` first")
    with scratch_folder() as folder:
        predictor = load_predictor(storage.copy_down(found["model"], folder))
    table = load_features(config, storage, list(predictor.spec.shapes))
    explained = _Explained(predictor, table, split, rows, seed)
    targets = {name: explained.target(name) for name in predictor.spec.targets}
    some = explained.chosen(samples)
    tables = {
        "modalities": explained.modalities(),
        "neighbours": explained.neighbours(some, config.targets),
        **explained.steps(some),
    }
    summary = {
        "model": predictor.fingerprint,
        "split": explained.split,
        "rows": len(explained.rows),
        "samples": len(some),
        "notes": explained.notes,
        "targets": targets,
        "seconds": round(time.perf_counter() - start, 3),
        "output": explanations_folder(config.output, predictor.fingerprint),
    }
    for name, each in tables.items():
        sink = io.BytesIO()
        pq.write_table(each, sink, compression="zstd")
        storage.write(f"{summary['output']}/{name}.parquet", sink.getvalue())
    storage.write_json(f"{summary['output']}/explanation.json", summary)
    return summary


def explanations_folder(output: str, model: str) -> str:
    """Where the explanation of a model is."""
    return f"{output.rstrip('/')}/explanations/{model}"


class _Explained:
    """The rows that a model is explained on, and what it says of them with each subset of the modalities."""

    def __init__(self, predictor: "Predictor", table: "FeatureSet", split: str, rows: int, seed: int):
        from mmray.training.explaining import outputs_of_subsets

        self.predictor, self.table, self.names = predictor, table, list(predictor.spec.shapes)
        self.notes: list[str] = []
        everything = predictor.spec.examples(table)
        some = everything.present().any(1)
        rng = np.random.default_rng(seed)
        if not (some & (table.split == split)).any():
            self.notes.append(f"no row of the {split} split has a modality: all rows are explained")
            split = "all"
        self.split = split
        self.rows = _drawn(rng, some & ((table.split == split) | (split == "all")), rows)
        self.train = _drawn(rng, some & (table.split == "train"), rows)
        if not len(self.rows):
            raise SamplesError("no row has a modality: there is nothing to explain")
        self.examples, self.of_train = everything.take(self.rows), everything.take(self.train)
        self.hidden = outputs_of_subsets(predictor, self.examples)
        self.hidden_train = outputs_of_subsets(predictor, self.of_train) if len(self.train) else {}

    def target(self, name: str) -> dict[str, Any]:
        """What is said of all rows together."""
        from mmray.training.explaining import shapley

        target = self.predictor.spec.targets[name]
        main, seen = target.target.metric_names[0], known(self.examples.targets[name])
        truth = self.examples.targets[name][seen]

        def metric(outputs: np.ndarray) -> float:
            return target.metrics(target.decode(outputs[seen]), truth)[main]

        worth = {some: metric(outputs[name]) for some, outputs in self.hidden.items()}
        everything = frozenset(self.names)
        return {
            "main": main,
            "n": int(seen.sum()),
            "modalities": {
                "mean": {m: float(np.abs(phi).mean()) for m, phi in self._phi(name)[2].items()},
                "metric": {m: number_or_null(phi) for m, phi in shapley(worth, self.names).items()},
                "all": number_or_null(worth[everything]),
                "nothing": number_or_null(worth[frozenset()]),
            },
            "robustness": {
                "without": {m: number_or_null(worth[everything - {m}]) for m in self.names},
                "noise": {m: self._noise(name, m, metric) for m in self.names},
            },
            "surrogate": self._surrogate(name, target),
        }

    def _phi(self, name: str) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Each row's value, its value with nothing seen, and {modality: what it adds}, [N] each."""
        from mmray.training.explaining import shapley, value_of

        target, everything = self.predictor.spec.targets[name], frozenset(self.names)
        decoded = {some: target.decode(outputs[name]) for some, outputs in self.hidden.items()}
        full = decoded[everything]
        values = {some: value_of(target, each, full) for some, each in decoded.items()}
        return values[everything], values[frozenset()], shapley(values, self.names)

    def _noise(self, name: str, modality: str, metric: Any) -> list[list[float | None]]:
        from mmray.training.explaining import noisy
        from mmray.training.predict import model_outputs

        words = self.predictor.spec.shapes[modality].kind == "words"
        curve, rows = [], np.arange(len(self.rows))
        for level in SHARES if words else LEVELS:
            changed = noisy(self.predictor, self.examples, modality, level)
            y = model_outputs(self.predictor.model, changed, rows, 256, self.predictor.device)
            curve.append([level, number_or_null(metric(y[name]))])
        return curve

    def _surrogate(self, name: str, target: FittedTarget) -> dict[str, Any]:
        from mmray.training.explaining import surrogate

        if not self.hidden_train or self.split in ("train", "all"):
            return {}

        def both(some: frozenset[str]) -> np.ndarray:
            return np.concatenate([each[some][name] for each in (self.hidden_train, self.hidden)])

        alone = {modality: both(frozenset([modality])) for modality in self.names}
        fit = np.arange(len(self.train) + len(self.rows)) < len(self.train)
        return surrogate(target, alone, both(frozenset(self.names)), fit)

    # -------------------------------------------------------------------------------- a sample

    def modalities(self) -> pa.Table:
        """A row a sample and target: what was predicted, its value, and what each modality adds to `base`."""
        parts = []
        for name, target in self.predictor.spec.targets.items():
            value, base, phi = self._phi(name)
            said = target.decode(self.hidden[frozenset(self.names)][name]).values
            columns = {
                "sample_id": pa.array(self.table.sample_ids[self.rows].tolist(), pa.string()),
                "target": [name] * len(value),
                "predicted": pa.array([_text(each) for each in target.for_table(said)], pa.string()),
                "value": value,
                "base": base,
            }
            parts.append(pa.table({**columns, **{m: np.asarray(phi[m], float) for m in self.names}}))
        return pa.concat_tables(parts)

    def chosen(self, count: int) -> np.ndarray:
        """Some of the rows: half are the most wrong in the first target, the others as they were drawn."""
        name, target = next(iter(self.predictor.spec.targets.items()))
        truth = self.examples.targets[name]
        scores = np.zeros(len(self.rows))
        if (seen := known(truth)).any():
            parts, wholes = target.row_scores(
                target.decode(self.hidden[frozenset(self.names)][name])[seen], truth[seen]
            )
            ratio = parts / np.maximum(wholes, 1e-12)
            scores[seen] = ratio if target.target.metric_names[0] == "mae" else 1 - ratio
        worst = np.argsort(-scores, kind="stable")[: count // 2]
        rest = np.setdiff1d(np.arange(len(self.rows)), worst)[: count - len(worst)]
        return np.concatenate([worst, rest])

    def neighbours(self, some: np.ndarray, targets: Mapping[str, Any]) -> pa.Table:
        """The nearest training samples of these rows, with their truths."""
        from mmray.training.explaining import nearest

        empty = {"sample_id": pa.array([], pa.string()), "neighbour": pa.array([], pa.string())}
        if not len(self.train) or not len(some):
            return pa.table(
                {**empty, "rank": pa.array([], pa.int32()), "distance": pa.array([], pa.float64())}
            )
        places, far = nearest(self.predictor, self.examples.take(some), self.of_train, NEIGHBOURS)
        them = self.train[places.reshape(-1)]
        columns: dict[str, Any] = {
            "sample_id": np.repeat(self.table.sample_ids[self.rows[some]], places.shape[1]).tolist(),
            "neighbour": self.table.sample_ids[them].tolist(),
            "rank": pa.array(np.tile(np.arange(1, places.shape[1] + 1), len(some)), pa.int32()),
            "distance": far.reshape(-1),
        }
        for name, target in targets.items():
            truths = list(self.table.targets[name][them])
            columns[name] = pa.array(truths, target.arrow_type, from_pandas=True)
        return pa.table(columns)

    def steps(self, some: np.ndarray) -> dict[str, pa.Table]:
        """What each step of these rows adds, for every target; nothing where Captum is not installed."""
        from mmray.training.explaining import attributions

        if importlib.util.find_spec("captum") is None:
            self.notes.append("steps are not explained: pip install 'mmray[explain]' (Captum)")
            return {}
        parts = []
        examples: Examples = self.examples.take(some)
        for name in self.predictor.spec.targets:
            found, missing = attributions(self.predictor, examples, name)
            for row, each in enumerate(found):
                for modality, told in each.items():
                    steps = len(told.added)
                    columns = {
                        "sample_id": [str(self.table.sample_ids[self.rows[some[row]]])] * steps,
                        "target": [name] * steps,
                        "modality": [modality] * steps,
                        "step": pa.array(np.arange(steps), pa.int32()),
                        "time_s": told.times_s.astype(np.float64),
                        "added": told.added,
                        "missing": np.full(steps, missing[row]),
                    }
                    parts.append(pa.table(columns))
        return {"steps": pa.concat_tables(parts)} if parts else {}


def _drawn(rng: np.random.Generator, mask: np.ndarray, count: int) -> np.ndarray:
    rows = np.flatnonzero(mask)
    return rows if len(rows) <= count else np.sort(rng.choice(rows, count, replace=False))


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def show(summary: Mapping[str, Any]) -> None:
    """Print what an explanation says of all rows."""
    from rich.table import Table

    console.out.print("\n[bold]explain[/]")
    console.out.print(
        f"  rows     {summary['rows']} of {summary['split']}; {summary['samples']} step by step"
    )
    for note in summary["notes"]:
        console.out.print(f"  note     {note}", markup=False, soft_wrap=True)
    for name, told in summary["targets"].items():
        table = Table(title=f"{name}", title_justify="left", box=None, header_style="bold", pad_edge=False)
        columns = (
            "modality",
            "adds to a prediction",
            f"adds to {told['main']}",
            f"{told['main']} without it",
        )
        for column in columns:
            table.add_column(column, justify="left" if column == "modality" else "right")
        for modality, mean in told["modalities"]["mean"].items():
            shares = told["modalities"]["metric"][modality], told["robustness"]["without"][modality]
            table.add_row(modality, f"{mean:.3f}", *(_number(share) for share in shares))
        console.out.print(table)
        both = (_number(told["modalities"][key]) for key in ("nothing", "all"))
        console.out.print(f"  {told['main']} from {' to '.join(both)}", markup=False)
        if tree := told["surrogate"]:
            said = f"agrees on {tree['fidelity']:.0%}" if tree["measure"] == "agreement" else "R² "
            told_of = said if tree["measure"] == "agreement" else f"{said}{tree['fidelity']:.3f}"
            console.out.print(f"  a tree of depth 3 {told_of} of {tree['rows']} rows", markup=False)
    console.out.print(f"  output   {summary['output']}", markup=False, soft_wrap=True)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
