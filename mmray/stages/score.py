"""Features and model in, predictions out: Ray Data streams partitions through scoring actors.

The predictions are cut as the index is, partition by partition, so that they resume the same way. They lie
in a folder named by the model: predictions of two models never mix. A file of predictions notes what it was
made from, the labels and the features of its samples: where these are others now (a relabel, a retry, a
row more), so is it.
"""

import hashlib
import time
from typing import Any

import pyarrow as pa

from mmray import console
from mmray.config import Config, ConfigLike, as_config
from mmray.distributed.admission import plan_score
from mmray.errors import PlanError, TableError
from mmray.stages.score_samples import open_samples
from mmray.stages.train import model_folder, trained, up_to_date
from mmray.storage.filesystem import Storage
from mmray.storage.lock import locked, one_driver
from mmray.storage.scratch import scratch_folder
from mmray.tables.features import Data
from mmray.tables.identity import hash_of
from mmray.tables.joined import read_joined
from mmray.tables.parts import digest_of, done_partitions, in_parallel, read_notes, write_partition

__all__ = ["score"]


def score(
    config: ConfigLike | None = None,
    address: str | None = None,
    *,
    model: str | None = None,
    samples: str | None = None,
    output: str | None = None,
) -> dict[str, Any]:
    """Bring predictions to completion and return their summary.

    With a config: of its samples, by its model. With `model`, `samples` and `output` instead: of any samples,
    labelled or not, by any trained model's folder; its features are extracted first, below `output`.

    Args:
        config: A config, or the path of one.
        address: A Ray cluster; without one, a Ray is started here.
        model: The folder of a model, or of its training, local or s3://.
        samples: A manifest, tar shards or a folder of media, as `samples` of a config takes them.
        output: Where features and predictions go.

    Raises:
        TableError: where features are not there, or no model of this config on these data; or where a model's
            features cannot be made as they were.
        PlanError: where the actors do not fit.
    """
    if config is not None:
        if model or samples or output:
            raise PlanError("score takes a config, or a model with samples and output, not both")
        return _of_project(config, address)
    if not (model and samples and output):
        raise PlanError("score takes a config, or a model with samples and output: all three")
    made, folder, data = open_samples(model, samples, output, address)
    storage = Storage(made.storage)
    with locked(storage, made.output, "score"):
        fingerprint = storage.read_json(f"{folder}/model.json")["fingerprint"]
        return _predict(made, storage, data, folder, fingerprint, address)


@one_driver
def _of_project(config: ConfigLike, address: str | None) -> dict[str, Any]:
    config = as_config(config)
    storage = Storage(config.storage)
    data = up_to_date(config, storage)
    found = _require_model(config, storage, data)
    return _predict(
        config, storage, data, model_folder(config, found["run"]), found["model_fingerprint"], address
    )


def _predict(
    config: Config, storage: Storage, data: Data, model: str, fingerprint: str, address: str | None
) -> dict[str, Any]:
    """Predictions by the model in a folder, below the config's output."""
    folder = config.path("predictions", fingerprint)
    made_from = hash_of([data.digest, data.index.digest])
    summary = storage.read_json(f"{folder}/_summary.json")
    there = len(done_partitions(storage, folder)) == len(data.index.partitions)
    if summary and there and summary["made_from"] == made_from:
        return {**summary, "rows_this_run": 0}
    scoring = _Scoring(storage, data, model, folder, config.score.batch_size)
    done = scoring.up_to_date()
    todo = sorted(set(range(len(data.index.partitions))) - done.keys())
    summary = {**_score(config, scoring, todo, list(done.values()), address), "made_from": made_from}
    if summary["rows"] != data.index.rows:
        raise AssertionError(f"{folder}: {summary['rows']} predictions for {data.index.rows} samples")
    for name in scoring.left_over():
        storage.remove(f"{folder}/{name}")
    storage.write_json(f"{folder}/_summary.json", summary)
    return summary


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

    def __init__(self, storage: Storage, data: Data, model: str, folder: str, batch_size: int):
        self.storage, self.data, self.model = storage, data, model
        self.folder, self.batch_size = folder, batch_size

    def made_from(self, at: int) -> str:
        """What the predictions of a partition depend on: its labels and the digests of its features."""
        partition = int(self.data.index.partitions[at])
        digest = hashlib.sha256(digest_of(self.data.index.read(self.storage, partition)).encode())
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

        cluster.connect(address)
        actors = plan_score(config.score, cluster.nodes(), len(todo)).size
        with console.progress("score", total=scoring.data.index.rows, done=earlier) as meter:
            for count in cluster.stream_partitions(
                todo,
                lambda nodes, left: cluster.Stage(
                    Score, plan_score(config.score, nodes, left), {"scoring": scoring}
                ),
            ):
                counts.append(count)
                meter.advance(count["rows"])
    rows = sum(count["rows"] for count in counts)
    return {
        "rows": rows,
        "rows_this_run": rows - earlier,
        "unpredicted": sum(count["unpredicted"] for count in counts),
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
            read_joined(scoring.storage, data, at, labels), scoring.batch_size
        )
        notes = {"made_from": made_from, "unpredicted": _unpredicted(predictions)}
        partition = int(data.index.partitions[at])
        notes = write_partition(scoring.storage, scoring.folder, partition, predictions, notes)
        return pa.table({"partition": [at], **{key: [value] for key, value in notes.items()}})


def _unpredicted(predictions: pa.Table) -> int:
    """Rows without any feature."""
    present = predictions["present"].combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
    return int((present == 0).sum())
