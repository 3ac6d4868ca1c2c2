"""Feature table and model in, prediction table out: Ray Data streams partitions through scoring actors.

The prediction table is cut as the feature table is, file by file, so that it resumes the same way. It
lies in a folder named by the model: predictions of two models never mix. A file of predictions notes the
digest of the features it was made from: where those were done anew (`mmray extract --retry-failed`), so is
it.
"""

import tempfile
import time
from typing import Any

import pyarrow as pa

from mmray import console
from mmray.config import Config, ConfigLike, as_config
from mmray.distributed.admission import plan_score
from mmray.errors import TableError
from mmray.stages.extract import features_folder
from mmray.stages.train import require_features
from mmray.storage.filesystem import Storage
from mmray.tables.identity import require_same
from mmray.tables.parts import done_partitions, read_notes, read_partition, read_schema, write_partition
from mmray.tables.schemas import columns_of

__all__ = ["score"]


def score(config: ConfigLike, address: str | None = None) -> dict[str, Any]:
    """Bring the prediction table to completion and return its summary.

    Raises:
        TableError: where features or model are not there, or the model was trained on other features.
        PlanError: where the actors do not fit.
    """
    config = as_config(config)
    storage, features = Storage(config.storage), features_folder(config)
    model = _require_model(config, storage)
    folder = config.path("predictions", model["model_fingerprint"])
    partitions, content = done_partitions(storage, features), _content(storage, features)
    summary = storage.read_json(f"{folder}/_summary.json")
    if summary and summary["features_content"] == content and done_partitions(storage, folder) == partitions:
        summary = {**summary, "rows_this_run": 0}
    else:
        done = _up_to_date(storage, features, folder)
        todo = sorted(set(partitions) - done.keys())
        model_folder = config.path("train", model["run"], "model")
        summary = _score(config, storage, model_folder, folder, todo, list(done.values()), address)
        summary["features_content"] = content
        rows = storage.read_json(f"{features}/_summary.json")["rows"]
        if summary["rows"] != rows:
            raise AssertionError(f"{folder}: {summary['rows']} predictions for {rows} rows")
        storage.write_json(f"{folder}/_summary.json", summary)
    storage.write_json(config.path("predictions", "_summary.json"), summary)
    return summary


def _content(storage: Storage, features: str) -> str | None:
    """What changes when any row of the feature table does."""
    return storage.read_json(f"{features}/_summary.json").get("content")


def _up_to_date(storage: Storage, features: str, folder: str) -> dict[int, dict[str, Any]]:
    """{partition: its notes} of the predictions made from the features as they are."""
    done = done_partitions(storage, folder)
    digests = (notes["digest"] for notes in read_notes(storage, features, done))
    made = zip(done, read_notes(storage, folder, done), digests)
    return {partition: notes for partition, notes, digest in made if notes["features"] == digest}


def _score(
    config: Config,
    storage: Storage,
    model: str,
    folder: str,
    todo: list[int],
    counts: list[dict[str, Any]],
    address: str | None,
) -> dict[str, Any]:
    """Score the partitions `todo`; `counts` are the notes of those that are done."""
    from mmray.distributed import pools as cluster

    cluster.connect(address)
    settings = {
        "storage": storage,
        "features": features_folder(config),
        "model": model,
        "predictions": folder,
        "batch_size": config.score.batch_size,
    }
    start = time.perf_counter()
    earlier = sum(count["rows"] for count in counts)
    total = storage.read_json(f"{features_folder(config)}/_summary.json")["rows"]
    with console.progress("score", total=total, done=earlier) as meter:
        for count in cluster.stream_partitions(
            todo, lambda nodes, left: [(Score, plan_score(config.score, nodes, left), settings)]
        ):
            counts.append(count)
            meter.advance(count["rows"])
    rows = sum(count["rows"] for count in counts)
    return {
        "rows": rows,
        "rows_this_run": rows - earlier,
        "unpredicted": sum(count["unpredicted"] for count in counts),
        "seconds": round(time.perf_counter() - start, 3),
        "actors": plan_score(config.score, cluster.nodes(), max(1, len(todo))).size,
        "output": folder,
    }


def _require_model(config: Config, storage: Storage) -> dict[str, Any]:
    """The results of the latest training, made on the feature table as it is."""
    results = storage.read_json(config.path("train", "results.json"))
    if results is None:
        raise TableError(f"{config.path('train')}: no trained model here; run `mmray train` first")
    trained_on = {"features_fingerprint": results["features_fingerprint"]}
    here = {"features_fingerprint": require_features(config, storage)}
    require_same(results["model"], trained_on, here, "train again on these features")
    return results


class Score:
    """[partition number] → its predictions, written, and a row that counts them."""

    def __init__(self, storage: Storage, features: str, model: str, predictions: str, batch_size: int):
        import torch

        from mmray.distributed.pools import use_own_cpus
        from mmray.training.checkpoint import load_predictor

        use_own_cpus()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.storage = storage
        self.features = features
        self.predictions = predictions
        self.batch_size = batch_size
        with tempfile.TemporaryDirectory() as folder:
            self.predictor = load_predictor(storage.copy_down(model, folder), device)
        spec = self.predictor.spec
        schema = read_schema(storage, features)
        columns = columns_of(list(spec.shapes), schema)
        self.columns = ["sample_id", "split", "errors", *columns, *spec.targets]

    def __call__(self, block: pa.Table) -> pa.Table:
        (partition,) = block["partition"].to_pylist()
        # First the digest: should the rows change in between, the predictions are done again, not kept.
        (made_from,) = read_notes(self.storage, self.features, [partition])
        rows = read_partition(self.storage, self.features, partition, self.columns)
        predictions = self.predictor.predict(rows, self.batch_size)
        notes = {"features": made_from["digest"], "unpredicted": _unpredicted(predictions)}
        notes = write_partition(self.storage, self.predictions, partition, predictions, notes)
        return pa.table({"partition": [partition], **{key: [value] for key, value in notes.items()}})


def _unpredicted(predictions: pa.Table) -> int:
    """Rows without any feature."""
    present = predictions["present"].combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
    return int((present == 0).sum())
