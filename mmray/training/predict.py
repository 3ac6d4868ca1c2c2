"""A feature table and a trained model → a prediction table: row in, row out, in the same order.

A row with nothing to see gets null predictions and a reason, never a guess that looks like one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mmray.config.running import ScoreConfig
from mmray.fusion.model import FusionModel
from mmray.tables.schemas import ERROR, TOP, prediction_schema
from mmray.targets import FittedTarget, Predicted, metadata_of
from mmray.training.batches import Examples, FeatureSet
from mmray.training.operating import Curve, Decision, decision_for
from mmray.training.spec import ModelSpec

__all__ = ["EMBEDDING", "Predictor", "model_outputs"]

EMBEDDING = "*embedding"
"""Among the outputs: no target has such a name."""


@torch.inference_mode()
def model_outputs(
    model: FusionModel,
    examples: Examples,
    rows: np.ndarray,
    batch_size: int,
    device: str | torch.device,
    *,
    embedding: bool = False,
) -> dict[str, np.ndarray]:
    """Raw outputs for these rows, {target: [len(rows), C] float32}; leaves the model in eval mode.

    With `embedding` also the fused vectors, {EMBEDDING: [len(rows), F]}.
    """
    model.eval()
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, max(len(rows), 1), batch_size):
        chunk = rows[start : start + batch_size]
        batch = examples.batch(chunk).to(device)
        if embedding:
            outputs, vectors = model.with_embedding(batch.inputs, batch.lengths, batch.times)
            outputs = {**outputs, EMBEDDING: vectors}
        else:
            outputs = model(batch.inputs, batch.lengths, batch.times)
        parts.append({name: y[: len(chunk)].cpu().numpy() for name, y in outputs.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class Predictor:
    """A trained model and what it needs to read a feature table."""

    model: FusionModel
    spec: ModelSpec
    fingerprint: str
    device: str = "cpu"
    operating: Mapping[str, Mapping[str, Curve]] = field(default_factory=dict)
    """How precise each class was on validation, as `mmray.training.operating` has it."""

    def decisions(self, options: ScoreConfig) -> dict[str, Decision]:
        """{target: when it is predicted}, as options of `score` ask for it.

        Raises:
            ConfigError, TableError: where they cannot be had of this model.
        """
        return {
            name: decision_for(
                name,
                target,
                options.thresholds.get(name, {}),
                options.precision.get(name),
                options.least(name) if target.names else 0.0,
                self.operating.get(name),
            )
            for name, target in self.spec.targets.items()
        }

    def predict(
        self, table: pa.Table, batch_size: int | None = None, options: ScoreConfig | None = None
    ) -> pa.Table:
        """Predictions for every row of index and features joined, in the schema of `mmray.tables.schemas`.

        Raises:
            TableError: where the table lacks a feature, or holds it in another shape.

        """
        options = options or ScoreConfig()
        targets = self.spec.target_configs()
        known = {name: target for name, target in targets.items() if name in table.column_names}
        data = FeatureSet.load(table, list(self.spec.shapes), known)
        examples = self.spec.examples(data)
        rows, size = np.arange(len(data)), batch_size or options.batch_size
        outputs = model_outputs(self.model, examples, rows, size, self.device, embedding=options.embeddings)
        present = examples.present()
        some = np.any(present, axis=1)
        scored = some & np.all([np.isfinite(y).all(axis=1) for y in outputs.values()], axis=0)

        columns: dict[str, pa.Array | pa.ChunkedArray] = {
            "sample_id": table.column("sample_id"),
            "split": table.column("split"),
            "present": pa.array([list(compress(examples.features, row)) for row in present]),
            "model": pa.array([self.fingerprint] * len(data)),
            "error": _reasons(some, scored),
        }
        decisions = self.decisions(options)
        for name, target in self.spec.targets.items():
            target = target if options.calibrated else target.uncalibrated()
            predicted = target.decode(outputs[name])
            values, abstains = decisions[name](target, predicted)
            truth = data.targets.get(name, np.full(len(data), None))
            kind = targets[name].arrow_type
            columns[name] = pa.array(truth, kind, from_pandas=True)
            columns[f"{name}_predicted"] = pa.array(target.for_table(values), kind, mask=~scored | abstains)
            columns |= _probabilities(name, target, predicted, scored, options.top_k)
        if options.embeddings:
            columns["embedding"] = pa.array(outputs[EMBEDDING].tolist(), mask=~scored)
        schema = prediction_schema(targets, top=bool(options.top_k), embedding=options.embeddings)
        arrays = [columns[field.name].cast(field.type) for field in schema]
        return pa.Table.from_arrays(arrays, schema=schema.with_metadata(metadata_of(self.spec.targets)))


def _probabilities(
    name: str, target: FittedTarget, predicted: Predicted, scored: np.ndarray, top_k: int | None
) -> dict[str, pa.Array]:
    """The columns of a target's probabilities, for a kind that has them."""
    p = predicted.probabilities
    if p is None:
        return {}
    offsets = pa.array(np.append(np.arange(len(p)) * p.shape[1], p.size), pa.int32())
    flat = pa.array(np.ascontiguousarray(p, np.float32).reshape(-1))
    columns: dict[str, Any] = {
        f"{name}_probabilities": pa.ListArray.from_arrays(offsets, flat, mask=pa.array(~scored))
    }
    if top_k:
        best = np.argsort(-p, axis=1, kind="stable")[:, :top_k]
        labels, own = target.names or [], np.take_along_axis(p, best, 1)
        top = [
            [{"label": labels[at], "probability": share} for at, share in zip(row, shares)]
            for row, shares in zip(best.tolist(), own.tolist())
        ]
        columns[f"{name}_top"] = pa.array(top, TOP, mask=~scored)
    return columns


def _reasons(some_present: np.ndarray, scored: np.ndarray) -> pa.Array:
    """Why a row was not scored; null where it was."""
    corrupt = {"reason": "corrupt", "detail": "the features give an output that is not finite"}
    absent = {"reason": "absent", "detail": "no modality is present"}
    rows = [
        None if done else {"stage": "score", "attempts": 1, **(corrupt if some else absent)}
        for some, done in zip(some_present, scored)
    ]
    return pa.array(rows, ERROR)
