"""A feature table and a trained model → a prediction table: row in, row out, in the same order.

A row with nothing to see gets null predictions and a reason, never a guess that looks like one.
"""

from dataclasses import dataclass
from itertools import compress

import numpy as np
import pyarrow as pa
import torch

from mmray.fusion.model import FusionModel
from mmray.tables.schemas import ERROR, prediction_schema
from mmray.targets import metadata_of
from mmray.training.batches import Examples, FeatureSet
from mmray.training.spec import ModelSpec

__all__ = ["Predictor", "model_outputs"]


@torch.inference_mode()
def model_outputs(
    model: FusionModel, examples: Examples, rows: np.ndarray, batch_size: int, device: str | torch.device
) -> dict[str, np.ndarray]:
    """Raw outputs for these rows, {target: [len(rows), C] float32}; leaves the model in eval mode."""
    model.eval()
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, max(len(rows), 1), batch_size):
        chunk = rows[start : start + batch_size]
        batch = examples.batch(chunk).to(device)
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

    def predict(self, table: pa.Table, batch_size: int = 256) -> pa.Table:
        """Predictions for every row of index and features joined, in the schema of `mmray.tables.schemas`.

        Raises:
            TableError: where the table lacks a feature, or holds it in another shape.

        """
        targets = self.spec.target_configs()
        known = {name: target for name, target in targets.items() if name in table.column_names}
        data = FeatureSet.load(table, list(self.spec.shapes), known)
        examples = self.spec.examples(data)
        outputs = model_outputs(self.model, examples, np.arange(len(data)), batch_size, self.device)
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
        for name, target in self.spec.targets.items():
            kind = targets[name].arrow_type
            predicted = target.decode(outputs[name])
            truth = data.targets.get(name, np.full(len(data), None))
            columns[name] = pa.array(truth, kind, from_pandas=True)
            columns[f"{name}_predicted"] = pa.array(target.for_table(predicted.values), kind, mask=~scored)
            if predicted.probabilities is not None:
                probabilities = predicted.probabilities.tolist()
                columns[f"{name}_probabilities"] = pa.array(probabilities, mask=~scored)
        schema = prediction_schema(targets)
        arrays = [columns[field.name].cast(field.type) for field in schema]
        return pa.Table.from_arrays(arrays, schema=schema.with_metadata(metadata_of(self.spec.targets)))


def _reasons(some_present: np.ndarray, scored: np.ndarray) -> pa.Array:
    """Why a row was not scored; null where it was."""
    corrupt = {"reason": "corrupt", "detail": "the features give an output that is not finite"}
    absent = {"reason": "absent", "detail": "no modality is present"}
    rows = [
        None if done else {"stage": "score", "attempts": 1, **(corrupt if some else absent)}
        for some, done in zip(some_present, scored)
    ]
    return pa.array(rows, ERROR)
