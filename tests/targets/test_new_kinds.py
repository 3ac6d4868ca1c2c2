"""A new kind of target or fusion is one file and one line of a table: shown on a copy of the package."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mmray

SOURCE = Path(mmray.__file__).parent

TARGET = '''
"""A number that counts events: learned by its Poisson likelihood."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from mmray.targets.base import FittedTarget, Predicted, Target, fit_scale, known


class CountTarget(Target):
    kind: Literal["count"]
    probabilistic: ClassVar[bool] = False

    @property
    def arrow_type(self):
        import pyarrow as pa

        return pa.float64()

    @property
    def metric_names(self):
        return ("mae",)

    def fit(self, name, values, ids, train):
        return FittedCount(self, fit_scale(name, values, ids, train)[0])

    def restore(self, fitted):
        return FittedCount(self, **fitted)


@dataclass(frozen=True)
class FittedCount(FittedTarget):
    target: CountTarget
    mean: float
    width = 1

    def encode(self, values):
        return values

    def for_table(self, values):
        return values

    def prior(self, encoded):
        return np.array([np.log(encoded[known(encoded)].mean())], np.float32)

    def loss_sum(self, y_BC, truth):
        import torch

        count = truth.nan_to_num().float()
        losses = torch.nn.functional.poisson_nll_loss(y_BC[:, 0], count, reduction="none")
        return torch.where(truth.isnan(), 0.0, losses).sum()

    def decode(self, outputs):
        return Predicted(np.exp(outputs[:, 0].astype(np.float64)))

    def _metrics(self, predicted, truth):
        return {"mae": float(np.abs(predicted.values - truth).mean())}

    def row_scores(self, predicted, truth):
        return np.abs(predicted.values - truth), np.ones(len(truth))

    def figure(self, predicted, truth, title):
        from mmray.results.plots import scatter_figure

        return scatter_figure(truth, predicted.values, title)
'''

FUSION = '''
"""The largest of the present modalities' units, after a layer each."""

from typing import Literal

from mmray.fusion.base import FusionKind
from mmray.settings import Positive


class LargestFusion(FusionKind):
    kind: Literal["largest"]
    hidden: Positive = 8

    def build(self, widths, outputs):
        import torch
        from torch import nn

        from mmray.fusion.heads import FusedHeads, Heads
        from mmray.fusion.named import NamedModules

        class Largest(nn.Module):
            takes = "vectors"

            def __init__(self, hidden):
                super().__init__()
                self.layers = NamedModules({name: nn.Linear(width, hidden) for name, width in widths.items()})

            def forward(self, vectors, present):
                low = torch.finfo(torch.float32).min
                units = [
                    torch.where(present[name][:, None], self.layers[name](vectors[name]), low)
                    for name in self.layers.names
                ]
                return torch.stack(units).amax(0)

        return FusedHeads(Largest(self.hidden), Heads(self.hidden, outputs))
'''

PROGRAM = '''
import sys
from pathlib import Path

from mmray.config import load_config

Path("config.yaml").write_text("""
output: out
samples: {manifest: samples.csv}
targets: {calls: {kind: count}}
features: {voice: {kind: mel}, face: {kind: mel}}
model: {fusion: {kind: largest, hidden: 4}}
train: {monitor: calls/mae, epochs: 15, learning_rate: 0.05}
""")
config = load_config("config.yaml")
assert "torch" not in sys.modules

import numpy as np

from mmray.results.predictions import judged
from mmray.training.batches import FeatureSet, Ragged
from mmray.training.checkpoint import load_predictor
from mmray.training.loop import fit

rng = np.random.default_rng(0)
x = rng.normal(size=(120, 3)).astype(np.float32)
counts = rng.poisson(np.exp(1 + x[:, 0])).astype(float)
ids = np.array([f"s{i}" for i in range(120)], dtype=object)
split = np.array(["train"] * 80 + ["val"] * 20 + ["test"] * 20, dtype=object)
steps = Ragged(x, np.arange(121))
data = FeatureSet(ids, split, {"voice": steps, "face": steps}, {"calls": counts})
result = fit(config.model, config.train, data, ["voice", "face"], config.targets)
report = result.test["calls"]
assert report["metrics"]["mae"] < 0.8 * report["majority"]["mae"], report
result.save("model")
fitted = load_predictor("model").spec.targets["calls"]
assert type(fitted).__name__ == "FittedCount", fitted
assert fitted.mean == counts[:80].mean()
print("trained")
'''


def test_a_target_and_a_fusion_are_one_file_and_one_line_each(tmp_path):
    package = tmp_path / "mmray"
    shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
    register(package / "targets", "count", TARGET, "__init__.py", "KINDS = (", "CountTarget")
    register(package / "fusion", "largest", FUSION, "kinds.py", "FUSIONS = (", "LargestFusion")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("trained\n"), done.stderr


def register(folder: Path, name: str, text: str, table: str, head: str, kind: str) -> None:
    """One new file, and one line in the table; the import is what the line costs besides."""
    (folder / f"{name}.py").write_text(text)
    before = (folder / table).read_text()
    assert before.count(head) == 1
    family = folder.name
    after = before.replace(head, f"from mmray.{family}.{name} import {kind}\n{head}\n    {kind},")
    (folder / table).write_text(after)
