"""Features and model in, predictions out: Ray Data streams partitions through scoring actors.

The predictions are cut as the index is, partition by partition, so that they resume the same way. They lie
in a folder named by the model: predictions of two models never mix. A file of predictions notes what it was
made from, the labels and the features of its samples: where these are others now (a relabel, a retry, a
row more), so is it.
"""

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mmray import console
from mmray.config import Config, ConfigLike, as_config
from mmray.config.running import ScoreConfig
from mmray.distributed.admission import plan_score
from mmray.errors import PlanError, TableError
from mmray.results.ensemble import ensemble, require_one_ensemble
from mmray.settings import deciding
from mmray.stages.score_samples import Trained, open_project, open_samples, trained_models
from mmray.stages.train import model_folder, trained, up_to_date
from mmray.storage.filesystem import Storage
from mmray.storage.lock import locked, one_driver
from mmray.storage.scratch import scratch_folder
from mmray.tables.features import Data
from mmray.tables.identity import hash_of
from mmray.tables.joined import read_joined
from mmray.tables.parts import (
    digest_of,
    done_partitions,
    file_name,
    in_parallel,
    read_notes,
    read_partition,
    read_schema,
    write_partition,
)
from mmray.targets import targets_in
from mmray.training.operating import decision_for

__all__ = ["predictions_made_from", "score"]

PARTITIONS_AT_ONCE = 4
"""Of an ensemble, joined at a time."""


def score(
    config: ConfigLike | None = None,
    address: str | None = None,
    *,
    model: str | Sequence[str] = (),
    samples: str | None = None,
    output: str | None = None,
) -> dict[str, Any]:
    """Bring predictions to completion and return their summary.

    With a config: of its samples, by the model it trains, or by those of `model` or `score.models` on its own
    feature tables. With `model`, `samples` and `output` instead: of any samples, labelled or not; the models'
    features are extracted first, below `output`, each once.

    Several models are scored side by side, and together as an ensemble where they predict the same targets.

    Args:
        config: A config, or the path of one.
        address: A Ray cluster; without one, a Ray is started here.
        model: The folders of models, or of their trainings, local or s3://.
        samples: A manifest, tar shards or a folder of media, as `samples` of a config takes them.
        output: Where features and predictions go.

    Returns:
        {rows, rows_this_run, unpredicted, abstained, seconds, actors, notes, output}; of several models also
        `models`, {fingerprint: the same}, the counts then being those of the output.

    Raises:
        TableError: where features are not there, or no model of this config on these data; or where a model's
            features cannot be made as they were.
        ConfigError: where an option names a target or class that a model does not know.
        PlanError: where the actors do not fit.
    """
    models = [model] if isinstance(model, str) else list(model)
    if config is not None:
        if samples or output:
            raise PlanError("score takes a config, or a model with samples and output, not both")
        return _of_config(config, address, models)
    if not (models and samples and output):
        raise PlanError("score takes a config, or a model with samples and output: all three")
    storage = Storage()
    found = trained_models(models, storage)
    made, data = open_samples(found, samples, output, address)
    with locked(storage, made.output, "score"):
        return _by_models(made, storage, found, data, address)


@one_driver
def _of_config(config: ConfigLike, address: str | None, models: list[str]) -> dict[str, Any]:
    config = as_config(config)
    storage = Storage(config.storage)
    if models := models or list(config.score.models):
        found = trained_models(models, storage)
        return _by_models(config, storage, found, open_project(config, found, storage), address)
    data = up_to_date(config, storage)
    own = _require_model(config, storage, data)
    return _predict(
        config, storage, data, model_folder(config, own["run"]), own["model_fingerprint"], address
    )


def _by_models(
    config: Config, storage: Storage, models: Sequence[Trained], data: Sequence[Data], address: str | None
) -> dict[str, Any]:
    """Predictions by each of these models, and by all of them together."""
    if config.score.precision and len(models) > 1:
        raise PlanError("score.precision is about one model: give score.thresholds, or one model")
    summaries: dict[str, dict[str, Any]] = {}
    for each, own in zip(models, data):
        summary = _predict(config, storage, own, each.folder, each.fingerprint, address)
        unknown = [name for name in config.targets if name not in each.told["targets"]]
        notes = [f"the model {each.fingerprint} does not know {', '.join(unknown)}"] if unknown else []
        summaries[each.fingerprint] = {**summary, "notes": notes}
    if len(summaries) == 1:
        return next(iter(summaries.values()))
    return _together(config, storage, summaries)


def _together(config: Config, storage: Storage, summaries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The ensemble of several models' predictions, partition by partition."""
    start = time.perf_counter()
    told = list(summaries.values())
    notes = [note for summary in told for note in summary["notes"]]
    common = {
        "rows": told[0]["rows"],
        "rows_this_run": max(summary["rows_this_run"] for summary in told),
        "actors": max(summary["actors"] for summary in told),
        "models": summaries,
    }
    folders = [summary["output"] for summary in told]
    fitted = [targets_in(read_schema(storage, folder)) for folder in folders]
    try:
        require_one_ensemble(fitted)
    except TableError as error:
        counts = {
            key: sum(summary[key] for summary in told) for key in ("unpredicted", "abstained", "seconds")
        }
        notes = [*notes, f"no ensemble: {error}"]
        return {**common, **counts, "notes": notes, "output": config.path("predictions")}
    name = f"ensemble-{hash_of(sorted(summaries))}"
    decisions = {
        target: decision_for(target, each, config.score.thresholds.get(target, {}), None,
                             config.score.least(target) if each.names else 0.0, None)
        for target, each in fitted[0].items()
    }  # fmt: skip
    output = config.path("predictions", name)

    def join(partition: int) -> dict[str, Any]:
        digests = [next(read_notes(storage, folder, [partition]))["digest"] for folder in folders]
        made_from = hash_of([digests, deciding(config.score)])
        if storage.exists(f"{output}/{file_name(partition)}"):
            notes = next(read_notes(storage, output, [partition]))
            if notes["made_from"] == made_from:
                return notes
        table = ensemble([read_partition(storage, folder, partition) for folder in folders], name, decisions)
        return write_partition(storage, output, partition, table, {"made_from": made_from, **_counts(table)})

    partitions = done_partitions(storage, folders[0])
    counts = list(in_parallel(join, partitions, PARTITIONS_AT_ONCE))
    for number in set(done_partitions(storage, output)) - {*partitions}:
        storage.remove(f"{output}/{file_name(number)}")
    summary = {
        **common,
        **{key: sum(count[key] for count in counts) for key in ("rows", "unpredicted", "abstained")},
        "seconds": round(sum(each["seconds"] for each in told) + time.perf_counter() - start, 3),
        "notes": notes,
        "output": output,
    }
    storage.write_json(f"{output}/_summary.json", summary)
    return summary


def _predict(
    config: Config, storage: Storage, data: Data, model: str, fingerprint: str, address: str | None
) -> dict[str, Any]:
    """Predictions by the model in a folder, below the config's output."""
    folder = config.path("predictions", fingerprint)
    options = deciding(config.score)
    made_from = predictions_made_from(config, data)
    summary = storage.read_json(f"{folder}/_summary.json")
    there = len(done_partitions(storage, folder)) == len(data.index.partitions)
    if summary and there and summary["made_from"] == made_from:
        return {**summary, "rows_this_run": 0}
    if options != deciding(ScoreConfig()):
        _require_options(config.score, storage, model)
    scoring = _Scoring(storage, data, model, folder, config.score)
    done = scoring.up_to_date()
    todo = sorted(set(range(len(data.index.partitions))) - done.keys())
    summary = {**_score(config, scoring, todo, list(done.values()), address), "made_from": made_from}
    if summary["rows"] != data.index.rows:
        raise AssertionError(f"{folder}: {summary['rows']} predictions for {data.index.rows} samples")
    for name in scoring.left_over():
        storage.remove(f"{folder}/{name}")
    storage.write_json(f"{folder}/_summary.json", summary)
    return summary


def predictions_made_from(config: Config, data: Data) -> str:
    """What a table of predictions is made from, beside its model: samples, features, options."""
    return hash_of([data.whole_digest, deciding(config.score)])


def _require_options(options: ScoreConfig, storage: Storage, model: str) -> None:
    """Refuse options that the model cannot follow, before an actor starts."""
    from mmray.training.checkpoint import load_predictor

    with scratch_folder() as folder:
        load_predictor(storage.copy_down(model, folder)).decisions(options)


def _require_model(config: Config, storage: Storage, data: Data) -> dict[str, Any]:
    """The results of this config's training on these data."""
    results = trained(config, storage, data)
    if results is None:
        raise TableError(
            f"{config.path('models')}: no model of these settings, trained on these samples and features, is "
            "here; run `mmray train` first"
        )
    return results


class _Scoring:
    """What every actor is told: the data, the model, and where the predictions go."""

    def __init__(self, storage: Storage, data: Data, model: str, folder: str, options: ScoreConfig):
        self.storage, self.data, self.model = storage, data, model
        self.folder, self.options = folder, options

    def made_from(self, at: int) -> str:
        """What the predictions of a partition depend on: its labels and the digests of its features."""
        partition = int(self.data.index.partitions[at])
        digest = hashlib.sha256(digest_of(self.data.index.read(self.storage, partition)).encode())
        digest.update(hash_of(deciding(self.options)).encode())
        for table in self.data.tables.values():
            for notes in read_notes(self.storage, table.folder, [partition]):
                digest.update(notes["digest"].encode())
        return digest.hexdigest()[:16]

    def up_to_date(self) -> dict[int, dict[str, Any]]:
        """{place of a partition in the index: notes of its predictions} of those that need not be made."""
        there = set(done_partitions(self.storage, self.folder))
        places = [at for at, number in enumerate(self.data.index.partitions.tolist()) if number in there]

        def look(at: int) -> dict[str, Any] | None:
            (notes,) = read_notes(self.storage, self.folder, [int(self.data.index.partitions[at])])
            return notes if notes["made_from"] == self.made_from(at) else None

        return {at: notes for at, notes in zip(places, in_parallel(look, places)) if notes}

    def left_over(self) -> list[str]:
        """Part files of partitions that are no longer in the index."""
        numbers = set(done_partitions(self.storage, self.folder)) - set(self.data.index.partitions.tolist())
        return [f"part-{number:06d}.parquet" for number in numbers]


def _score(
    config: Config, scoring: _Scoring, todo: list[int], counts: list[dict[str, Any]], address: str | None
) -> dict[str, Any]:
    """Score the partitions `todo`; `counts` are the notes of those that are done."""
    start = time.perf_counter()
    earlier = sum(count["rows"] for count in counts)
    actors = 0
    if todo:
        from mmray.distributed import pools as cluster
        from mmray.distributed.metrics import Progress

        cluster.connect(address, config.cluster)
        actors = plan_score(config.score, cluster.nodes(), len(todo)).size
        left = scoring.data.index.rows - earlier
        watched = Progress(config.name, "score", rows=left, partitions=len(todo))
        with console.progress("score", total=scoring.data.index.rows, done=earlier) as meter:
            for count in cluster.stream_partitions(
                todo,
                lambda nodes, left: cluster.Stage(
                    Score,
                    plan_score(config.score, nodes, left),
                    {"scoring": scoring},
                    stall_timeout_s=config.score.stall_timeout_s,
                ),
            ):
                counts.append(count)
                watched.partition(count["rows"])
                meter.advance(count["rows"])
    rows = sum(count["rows"] for count in counts)
    return {
        "rows": rows,
        "rows_this_run": rows - earlier,
        "unpredicted": sum(count["unpredicted"] for count in counts),
        "abstained": sum(count["abstained"] for count in counts),
        "seconds": round(time.perf_counter() - start, 3),
        "actors": actors,
        "output": scoring.folder,
    }


class Score:
    """[place of a partition in the index] → its predictions, written, and a row that counts them."""

    def __init__(self, scoring: _Scoring):
        from mmray.distributed.pools import own_device, use_own_cpus
        from mmray.training.checkpoint import load_predictor

        use_own_cpus()
        device = own_device()
        self.scoring = scoring
        with scratch_folder() as folder:
            self.predictor = load_predictor(scoring.storage.copy_down(scoring.model, folder), device)

    def __call__(self, block: pa.Table) -> pa.Table:
        (at,) = block["partition"].to_pylist()
        scoring, data = self.scoring, self.scoring.data
        # First the digest: should the rows change in between, the predictions are done again, not kept.
        made_from = scoring.made_from(at)
        there = set(data.index.columns(scoring.storage))
        labels = ["sample_id", "split", *(name for name in self.predictor.spec.targets if name in there)]
        predictions = self.predictor.predict(
            read_joined(scoring.storage, data, at, labels), options=scoring.options
        )
        notes = {"made_from": made_from, **_counts(predictions)}
        partition = int(data.index.partitions[at])
        notes = write_partition(scoring.storage, scoring.folder, partition, predictions, notes)
        return pa.table({"partition": [at], **{key: [value] for key, value in notes.items()}})


def _counts(predictions: pa.Table) -> dict[str, int]:
    """Rows that cannot be predicted, and rows of which some target is held back."""
    failed = predictions["error"].is_valid().to_numpy()
    silent = [
        predictions[f"{name}_predicted"].is_null().to_numpy() for name in targets_in(predictions.schema)
    ]
    held = np.logical_or.reduce(silent) & ~failed if silent else np.zeros(len(failed), bool)
    return {"unpredicted": int(failed.sum()), "abstained": int(held.sum())}
