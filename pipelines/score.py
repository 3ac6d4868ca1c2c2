"""Feature table and model in, prediction table out: Ray Data streams partitions through scoring actors.

The prediction table is cut as the feature table is, file by file, so that it resumes the same way. It
lies in a folder named by the model: predictions of two models never mix.
"""

import tempfile
import time
from typing import Any

import pyarrow as pa

from mmray.config import Config
from mmray.errors import TableError
from mmray.fingerprint import require_same
from mmray.partitions import done_partitions, read_partition, write_partition
from mmray.plan import plan_score
from mmray.storage import Storage, absolute_paths
from pipelines import console
from pipelines.extract import features_folder
from pipelines.train import require_features

__all__ = ["score"]


def score(config: Config, address: str | None = None) -> dict[str, Any]:
    """Bring the prediction table to completion and return its summary.

    Raises:
        TableError: where features or model are not there, or the model was trained on other features.
        PlanError: where the actors do not fit.
    """
    config = absolute_paths(config)
    storage, features = Storage(config.storage), features_folder(config)
    model = _require_model(config, storage)
    folder = config.path("predictions", model["model_fingerprint"])
    partitions, done = done_partitions(storage, features), done_partitions(storage, folder)
    todo = sorted(set(partitions) - set(done))
    summary = storage.read_json(f"{folder}/_summary.json")
    if summary is None or todo:
        summary = _score(
            config, storage, config.path("train", model["run"], "model"), folder, todo, done, address
        )
        rows = storage.read_json(f"{features}/_summary.json")["rows"]
        if summary["rows"] != rows:
            raise AssertionError(f"{folder}: {summary['rows']} predictions for {rows} rows")
        storage.write_json(f"{folder}/_summary.json", summary)
    else:
        summary = {**summary, "rows_this_run": 0}
    storage.write_json(config.path("predictions", "_summary.json"), summary)
    return summary


def _score(
    config: Config,
    storage: Storage,
    model: str,
    folder: str,
    todo: list[int],
    done: list[int],
    address: str | None,
) -> dict[str, Any]:
    from pipelines import cluster

    cluster.connect(address)
    pool = plan_score(config.score, cluster.nodes(), max(1, len(todo)))
    settings = {
        "storage": storage,
        "features": features_folder(config),
        "model": model,
        "predictions": folder,
        "batch_size": config.score.batch_size,
    }
    start = time.perf_counter()
    counts = [_count(read_partition(storage, folder, partition, ["present"])) for partition in done]
    earlier = sum(count["rows"] for count in counts)
    total = storage.read_json(f"{features_folder(config)}/_summary.json")["rows"]
    with console.progress("score", total=total, done=earlier) as meter:
        for count in cluster.stream_partitions(todo, [(Score, pool, settings)]):
            counts.append(count)
            meter.advance(count["rows"])
    rows = sum(count["rows"] for count in counts)
    return {
        "rows": rows,
        "rows_this_run": rows - earlier,
        "unpredicted": sum(count["unpredicted"] for count in counts),
        "seconds": round(time.perf_counter() - start, 3),
        "actors": pool.size,
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

        from mmray.learn.checkpoint import load_predictor
        from pipelines.cluster import use_own_cpus

        use_own_cpus()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.storage = storage
        self.features = features
        self.predictions = predictions
        self.batch_size = batch_size
        with tempfile.TemporaryDirectory() as folder:
            self.predictor = load_predictor(storage.copy_down(model, folder), device)
        spec = self.predictor.spec
        self.columns = ["sample_id", "split", "errors", *spec.shapes, *spec.targets]

    def __call__(self, block: pa.Table) -> pa.Table:
        (partition,) = block["partition"].to_pylist()
        rows = read_partition(self.storage, self.features, partition, self.columns)
        predictions = self.predictor.predict(rows, self.batch_size)
        write_partition(self.storage, self.predictions, partition, predictions)
        return pa.table({key: [value] for key, value in _count(predictions).items()})


def _count(predictions: pa.Table) -> dict[str, int]:
    present = predictions["present"].combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
    return {"rows": len(present), "unpredicted": int((present == 0).sum())}
