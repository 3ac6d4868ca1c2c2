"""Two real processes with gloo against one. This file is also the program those processes run."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from mmray.config import ModelConfig, TrainConfig
from mmray.errors import MmrayError
from mmray.targets import RegressionTarget
from mmray.training.batches import FeatureSet
from mmray.training.loop import FitResult, fit

FEATURES = ["audio", "video", "words"]
FUSIONS = ["concat", "late"]


def work(folder: Path, rank: int) -> None:
    """Run every job of the folder as one of two workers."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    outcomes = {}
    for name, job in pickle.loads((folder / "jobs").read_bytes()).items():
        saves = []

        def note(metrics, save, name=name, saves=saves):
            saves.append(save is not None)
            if save is not None:
                save(folder / name)
            if save is not None and metrics["epoch"] == 2:
                save(folder / f"{name}-2")

        try:
            result = fit(*job, rank=rank, world_size=2, report=note)
            outcomes[name] = {**weights_and_metrics(result), "saves": saves}
        except MmrayError as error:
            outcomes[name] = {"error": str(error)}
    (folder / f"rank{rank}").write_bytes(pickle.dumps(outcomes))
    dist.destroy_process_group()


def weights_and_metrics(result: FitResult) -> dict:
    return {
        "weights": {key: value.numpy() for key, value in result.snapshot.current.items()},
        "history": [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in result.history],
        "test": result.test,
    }


def same_weights(a: dict, b: dict, rtol: float, atol: float) -> None:
    """All but the bias of attention keys: the softmax cancels it, its gradient is rounding noise to Adam."""
    assert a["weights"].keys() == b["weights"].keys()
    for name, value in a["weights"].items():
        keep = np.ones(value.shape[:1], dtype=bool)
        if name.endswith("in_proj_bias"):
            keep[len(value) // 3 : 2 * len(value) // 3] = False
        np.testing.assert_allclose(value[keep], b["weights"][name][keep], rtol, atol, err_msg=name)


def job(data: FeatureSet, targets: dict, fusion: str, heads: float = 0.0, **train) -> tuple:
    hidden = {"hidden": 8, "dropout": 0.0}
    kinds = {"audio": "gru", "video": "mlp", "words": "transformer"}
    model = ModelConfig.model_validate(
        {
            "encoders": {name: {"kind": kind, **hidden} for name, kind in kinds.items()},
            "fusion": {"kind": "late"} if fusion == "late" else {"kind": "concat", **hidden},
            "embedding": 8,
            "unimodal_heads": heads,
        }
    )
    settings = {"learning_rate": 5e-3, "batch_size": 16, "epochs": 3, "seed": 2, **train}
    return model, TrainConfig(**settings), data, FEATURES, targets


@pytest.fixture(scope="module")
def jobs(make_table, targets, every_target, with_every_target) -> dict[str, tuple]:
    """65 rows to train on: the last batch has a row for one worker, and none for the other. 33 to test on."""
    table = with_every_target(make_table(160, seed=3, missing=0.3))
    # A gradient of signs alone cancels to rounding noise, which Adam scales up: no absolute errors here.
    smooth = RegressionTarget(kind="regression", loss="huber", scale="sentiment")
    every_target = {**every_target, "sentiment": smooth}
    data = FeatureSet.load(table, FEATURES, every_target)
    present = np.stack([data.features[name].lengths > 0 for name in FEATURES]).any(0)
    labelled = np.array([label is not None for label in data.targets["mood"]])
    trained = (data.split == "train") & present & (labelled | ~np.isnan(data.targets["score"]))
    spare = [*np.flatnonzero(trained)[65:], *np.flatnonzero(data.split == "test")[33:]]
    data = data.subset(np.setdiff1d(np.arange(len(data)), spare))
    val = np.flatnonzero(data.split == "val")
    labelled = np.array([label is not None for label in data.targets["mood"]])
    one_val = data.subset(np.setdiff1d(np.arange(len(data)), val[val != val[labelled[val]][0]]))
    return {
        **{fusion: job(data, targets, fusion) for fusion in FUSIONS},
        "fixed": job(data, every_target, "concat", 0.5, epochs=2, loss_weights={"mood": 2.0, "tags": 0.5}),
        "learned": job(data, every_target, "late", 0.5, epochs=2, loss_weights="uncertainty"),
        "one_val": job(one_val, targets, "concat", epochs=1),
        "diverges": job(data, targets, "concat", batch_size=64, epochs=1, learning_rate=1e30),
    }


@pytest.fixture(scope="module")
def folder(jobs, tmp_path_factory) -> Path:
    """Where two workers have run the jobs."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "jobs").write_bytes(pickle.dumps(jobs))
    processes = [
        subprocess.Popen([sys.executable, __file__, folder, str(rank)], stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    try:
        for process in processes:
            _, log = process.communicate(timeout=300)
            assert process.returncode == 0, log
    finally:
        for process in processes:
            process.kill()
    return folder


@pytest.fixture(scope="module")
def ranks(folder) -> list[dict[str, dict]]:
    return [pickle.loads((folder / f"rank{rank}").read_bytes()) for rank in (0, 1)]


@pytest.mark.parametrize("fusion", [*FUSIONS, "fixed", "learned"])
def test_two_workers_learn_what_one_does(jobs, ranks, fusion):
    alone = fit(*jobs[fusion])
    two = ranks[0][fusion]
    assert alone.rows["train"]["used"] == 65
    same_weights(two, weights_and_metrics(alone), rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(two["history"], weights_and_metrics(alone)["history"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, nan_ok=True)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_workers_agree_to_the_bit_and_the_first_one_saves(ranks, fusion):
    first, second = ranks[0][fusion], ranks[1][fusion]
    same_weights(first, second, rtol=0, atol=0)
    assert first["history"] == second["history"]
    assert json.dumps(first["test"]) == json.dumps(second["test"])
    assert first["saves"] == [True] * 3
    assert second["saves"] == [False] * 3


@pytest.mark.parametrize("fusion", FUSIONS)
def test_no_row_is_lost_in_evaluation(jobs, ranks, fusion):
    data: FeatureSet = jobs[fusion][2]
    labels = data.targets["mood"][data.split == "test"]
    numbers = data.targets["score"][data.split == "test"]
    report = ranks[0][fusion]["test"]
    assert len(labels) == 33
    assert report["mood"]["rows"] == np.sum(report["mood"]["confusion"]) == sum(v is not None for v in labels)
    assert report["score"]["rows"] == (~np.isnan(numbers)).sum()


def test_one_worker_goes_on_from_where_two_stopped(jobs, folder):
    resumed = fit(*jobs["concat"], resume=folder / "concat-2")
    straight = fit(*jobs["concat"])
    same_weights(weights_and_metrics(resumed), weights_and_metrics(straight), rtol=1e-4, atol=1e-6)


def test_a_split_may_have_fewer_rows_than_workers(jobs, ranks):
    alone = fit(*jobs["one_val"])
    assert alone.rows["val"]["rows"] == 1
    for rank in ranks:
        ours, theirs = rank["one_val"]["history"][0], alone.history[0]
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-3)


def test_every_worker_stops_where_one_diverges(ranks):
    """The second step has one row: the other worker's own loss there is 0."""
    errors = [rank["diverges"]["error"] for rank in ranks]
    assert errors[0] == errors[1]
    assert errors[0].startswith("epoch 1, step 2: the loss or its gradient is not finite")


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]))
