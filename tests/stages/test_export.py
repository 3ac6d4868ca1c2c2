"""A model as a graph: run by onnxruntime and torch.export on a table, held against `score`'s predictions."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from mmray.config import ModelConfig, TrainConfig, load_config
from mmray.errors import StorageError, TableError
from mmray.stages.export import export
from mmray.stages.score_samples import project_of, trained_models
from mmray.storage.filesystem import Storage
from mmray.tables.identity import feature_specs
from mmray.tables.schemas import FeatureShape, vectors_to_column
from mmray.targets import ClassificationTarget, RegressionTarget
from mmray.training.batches import FeatureSet
from mmray.training.checkpoint import load_predictor
from mmray.training.loop import fit

TARGETS = {
    "mood": ClassificationTarget(kind="classification"),
    "score": RegressionTarget(kind="regression"),
}
FEATURES = ["voice", "words"]


def table(rows: int = 60) -> pa.Table:
    rng = np.random.default_rng(0)
    level = rng.normal(size=rows)
    voice = [None if i % 7 == 3 else rng.normal(level[i], 1, (1 + i % 5, 4)) for i in range(rows)]
    words = [None if i % 5 == 3 else ["up" if level[i] > 0 else "down"] * (1 + i % 3) for i in range(rows)]
    return pa.table(
        {
            "sample_id": [f"s{i}" for i in range(rows)],
            "split": [("train", "val", "test")[i % 3] for i in range(rows)],
            "mood": ["high" if x > 0 else "low" for x in level],
            "score": level,
            "voice": vectors_to_column(voice, FeatureShape(4)),
            "words": pa.array(words, pa.list_(pa.string())),
            **{
                f"{name}_{part}_s": pa.nulls(rows, pa.float32())
                for name in FEATURES
                for part in ("start", "step")
            },
        }
    )


def model_in(folder: Path, settings: dict, weights: Path | None = None) -> Path:
    data = FeatureSet.load(table(), FEATURES, TARGETS)
    fit(ModelConfig.model_validate(settings), TrainConfig(epochs=2), data, FEATURES, TARGETS).save(folder)
    features = {"voice": {"kind": "mel", "n_mels": 4}, "words": {"kind": "tokens"}}
    if weights:
        features["voice"] = {"kind": "frames", "weights": str(weights), "encoder": "resnet18"}
    told = {
        "features": features,
        "extract": {},
        "columns": {},
        "targets": {name: target.model_dump(mode="json") for name, target in TARGETS.items()},
        "specs": {},
    }
    (folder / "features.json").write_text(json.dumps(told))
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"encoders": {"voice": {"kind": "gru", "layers": 2}}, "fusion": {"kind": "weighted"}},
        {"encoders": {name: {"kind": "identity"} for name in FEATURES}, "fusion": {"kind": "bottleneck"}},
    ],
    ids=["mlp-concat", "gru-weighted", "bottleneck"],
)
def test_both_graphs_give_what_score_gives(tmp_path, settings):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = model_in(tmp_path / "model", settings)
    manifest = export(str(model), str(tmp_path / "out"))
    recurrent = "gru" in str(settings)
    assert manifest["checked"].keys() == {"fusion.onnx", *(() if recurrent else ("fusion.pt2",))}
    assert bool(manifest["notes"]) == recurrent
    told = json.loads((tmp_path / "out/manifest.json").read_text())
    predictor = load_predictor(tmp_path / "out")
    rows = predictor.predict(table()).to_pylist()
    batch = predictor.spec.examples(FeatureSet.load(table(), FEATURES, {})).batch(np.arange(60))
    given = {
        f"{name}.{part}": getattr(batch, where)[name].numpy()
        for name in FEATURES
        for part, where in (("values", "inputs"), ("length", "lengths"), ("time_s", "times"))
    }
    session = onnxruntime.InferenceSession(str(tmp_path / "out/fusion.onnx"))
    there = {each.name for each in session.get_inputs()}
    by_onnx = session.run(
        [each["name"] for each in told["outputs"]], {k: v for k, v in given.items() if k in there}
    )
    by_torch = []
    if not recurrent:
        graph = torch.export.load(tmp_path / "out/fusion.pt2").module()
        with torch.no_grad():
            by_torch = graph(*(torch.from_numpy(given[each["name"]]) for each in told["inputs"]))
    mood, score = (each["then"] for each in told["outputs"])
    for outputs in filter(None, (by_onnx, [y.numpy() for y in by_torch])):
        odds = np.exp(outputs[0] / mood["temperature"])
        for row, p, y in zip(rows, odds / odds.sum(1, keepdims=True), outputs[1][:, 0]):
            if row["present"]:
                assert p == pytest.approx(row["mood_probabilities"], abs=1e-4)
                assert y * score["std"] + score["mean"] == pytest.approx(row["score_predicted"], abs=1e-4)


def test_what_is_no_graph_is_said_and_nothing_is_overwritten(tmp_path):
    settings = {"encoders": {"voice": {"kind": "gru", "bidirectional": True}}}
    model = model_in(tmp_path / "model", settings)
    with pytest.raises(TableError, match="cannot be exported as one graph"):
        export(str(model), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(StorageError, match="is not empty"):
        export(str(model), str(model))


def test_weights_are_packed_and_found_again(tmp_path):
    from torchvision.models import resnet18

    weights = tmp_path / "elsewhere" / "resnet.pt"
    weights.parent.mkdir()
    torch.save(resnet18().state_dict(), weights)
    model = model_in(tmp_path / "model", {}, weights)
    told = json.loads((model / "features.json").read_text())
    source = {"output": str(tmp_path), "samples": {"manifest": "m.jsonl"}, "features": told["features"]}
    told["specs"] = {
        name: {**spec, "environment": {}} for name, spec in feature_specs(load_config(source)).items()
    }
    (model / "features.json").write_text(json.dumps(told))
    before = weights.read_bytes()
    export(str(model), str(tmp_path / "out"), with_encoders=True)
    weights.unlink()
    with pytest.raises(TableError, match="no such weights file"):
        project_of(trained_models([str(model)], Storage()), {"manifest": "m.jsonl"}, str(tmp_path))
    shutil.move(tmp_path / "out", tmp_path / "moved")
    (found,) = trained_models([str(tmp_path / "moved")], Storage())
    config = project_of([found], {"manifest": "m.jsonl"}, str(tmp_path))  # its spec is that of the original
    assert Path(config.model_dump()["features"]["voice"]["weights"]).read_bytes() == before
