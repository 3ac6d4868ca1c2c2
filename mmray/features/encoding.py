"""What is prepared → rows of the feature tables: pictures, sounds and texts through networks, in batches.

An encoder is a function: the values of many samples → one [T, D] array each (or the reason why there is
none). What is not encoded (spectra, words) is stored as it was prepared.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from mmray.errors import MediaError, TableError
from mmray.features.base import Cut, Encoder, Step
from mmray.features.device import Device
from mmray.features.kinds import Feature, kind_of
from mmray.features.preparing import Prepared, error_entry, timed
from mmray.features.weights import with_local_weights
from mmray.storage.filesystem import Storage
from mmray.tables.identity import media_keys
from mmray.tables.schemas import FeatureShape, feature_schema, vectors_to_column

__all__ = ["Encoded", "Encoding", "encodable", "pooled", "tables_of"]

TAKEN = Step(None)
"""Stands for a step that its encoder has."""


Steps = Mapping[str, list[Step]]
Encoded = dict[str, list[Step | MediaError]]


class Encoding:
    """The encoders of features, and what their tables hold."""

    def __init__(
        self,
        features: Mapping[str, Feature],
        *,
        device: Device,
        storage: Storage | None = None,
    ):
        """`storage` reads weights that lie on s3://.

        Raises:
            ConfigError, TableError: where an encoder or its weights are not there, or do not fit.

        """
        self.features = with_local_weights(features, storage or Storage())
        self.encoders: dict[str, Encoder] = {}
        self.shapes: dict[str, FeatureShape] = {}
        for name, feature in self.features.items():
            encoder, self.shapes[name] = _encoder(feature, device)
            if encoder:
                self.encoders[name] = encoder

    @property
    def cuts(self) -> dict[str, Cut | None]:
        """Where the steps of each feature that is encoded may be cut."""
        return {name: encoder.cut for name, encoder in self.encoders.items()}

    def encode(self, steps: Steps) -> Encoded:
        """{feature: vectors, or why there are none}, in order, of features that have an encoder."""
        return {name: list(self.encoders[name](own)) for name, own in steps.items()}

    def __call__(self, prepared: Prepared) -> dict[str, pa.Table]:
        """{feature: rows of its table} of the samples asked for, in their order."""
        with timed(prepared.seconds, "encode"):
            encoded = self.encode(encodable(prepared, self.encoders))
        return tables_of(self.features, self.shapes, prepared, encoded)


def encodable(prepared: Prepared, names: Iterable[str]) -> dict[str, list[Step]]:
    """{feature: its steps that are there} of some features, taken out of what was prepared."""
    taken = {}
    for name in names:
        steps = prepared.steps[name]
        taken[name] = [step for step in steps if step is not None]
        prepared.steps[name] = [step and TAKEN for step in steps]
    return taken


def tables_of(
    features: Mapping[str, Feature], shapes: Mapping[str, FeatureShape], prepared: Prepared, encoded: Encoded
) -> dict[str, pa.Table]:
    """{feature: rows of its table}: what was prepared, with what its encoder made of it where it has one."""
    return {
        name: _table_of(name, features[name], shape, prepared, iter(encoded.get(name, [])))
        for name, shape in shapes.items()
    }


def _table_of(
    name: str,
    feature: Feature,
    shape: FeatureShape,
    prepared: Prepared,
    encoded: Iterator[Step | MediaError],
) -> pa.Table:
    wanted = np.flatnonzero(prepared.wanted[name])
    samples = prepared.samples.take(pa.array(wanted))
    errors = [prepared.errors[name][row] for row in wanted]
    steps: list[Step | None] = []
    for place, row in enumerate(wanted):
        step: Step | MediaError | None = prepared.steps[name][row]
        if step is TAKEN:
            step = next(encoded)
        if isinstance(step, Step) and shape.dim is not None:
            step = _storable(pooled(step, getattr(feature, "pooling", "none")), shape)
        if isinstance(step, MediaError):
            errors[place] = {**error_entry(step), "stage": "encode"}
        steps.append(step if isinstance(step, Step) else None)
    columns = {
        "sample_id": samples["sample_id"],
        "media_key": media_keys(samples, [feature.source]),
        name: _values_column(steps, shape),
        f"{name}_length": [0 if step is None else len(step.value) for step in steps],
        f"{name}_start_s": [step and step.start_s for step in steps],
        f"{name}_step_s": [step and step.step_s for step in steps],
        f"{name}_times_s": [step and step.times_s for step in steps],
        f"{name}_boxes": [
            None if step is None or step.boxes is None else step.boxes.tolist() for step in steps
        ],
        "error": errors,
    }
    schema = feature_schema(name, shape)
    return pa.table([_as_array(columns[field.name], field.type) for field in schema], schema=schema)


def _encoder(feature: Feature, device: Device) -> tuple[Encoder | None, FeatureShape]:
    """A feature's encoder (None: stored as prepared) and what its table holds."""
    kind = kind_of(feature)
    dtype, boxed = getattr(feature, "dtype", "float32"), getattr(feature, "track", None) is not None
    if kind.encoder:
        encoder = kind.encoder(feature, device)
        return encoder, FeatureShape(encoder.dim, dtype, timed=kind.timed, boxed=boxed)
    if kind.dim:
        return None, FeatureShape(kind.dim(feature), dtype, timed=kind.timed)
    raise TableError(f"{kind.name} features are not extracted")


def pooled(step: Step, pooling: str) -> Step:
    """`none`: the step as it is; `mean`, `max` over time or `cls`, the first: one vector [1, D].

    Its time is the middle of the steps it stands for, its length all of theirs.
    """
    if pooling == "none":
        return step
    values = np.asarray(step.value)
    vector = {"mean": values.mean, "max": values.max, "cls": lambda _: values[0]}[pooling](0)
    steps = len(values)
    if step.start_s is None or step.step_s is None:
        return Step(vector[None])
    middle_s = step.start_s + (steps - 1) / 2 * step.step_s
    times_s = None
    if step.times_s is not None:
        middle_s = float(step.times_s.mean())
        times_s = np.array([middle_s], np.float32)
    return Step(vector[None], middle_s, steps * step.step_s, times_s, step.boxes)


def _storable(step: Step, shape: FeatureShape) -> Step | MediaError:
    """Numbers the table can hold; what is not finite would poison a whole training."""
    width = np.shape(step.value)[-1]
    if width != shape.dim:
        return MediaError(
            "corrupt", f"the encoder gives vectors of {width} numbers, the feature has {shape.dim}"
        )
    largest = np.abs(np.asarray(step.value)).max(initial=0.0)
    if not np.isfinite(largest):
        return MediaError("corrupt", "the encoder gives numbers that are not finite")
    if shape.dtype == "float16" and largest > np.finfo(np.float16).max:
        return MediaError("corrupt", f"{largest:g} does not fit float16; extract the feature as float32")
    return step


# ------------------------------------------------------------------------------------ columns


def _values_column(steps: list[Step | None], shape: FeatureShape) -> pa.Array:
    values: list[Any] = [step and step.value for step in steps]
    if shape.dim is None:
        return pa.array(values, shape.arrow_type)
    return vectors_to_column(values, shape)


def _as_array(values: Any, kind: pa.DataType) -> Any:
    return pa.array(values, kind) if isinstance(values, list) else values
