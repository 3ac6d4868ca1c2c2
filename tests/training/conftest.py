"""A small feature table whose labels follow from its features, with modalities and truths missing."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import torch

from mmray.tables.schemas import FeatureShape, feature_schema, vectors_to_column
from mmray.targets import ClassificationTarget, MultilabelTarget, OrdinalTarget, RegressionTarget, Target

SHAPES = {
    "audio": FeatureShape(3),
    "video": FeatureShape(4, "float16"),
    "words": FeatureShape(None),
}
TARGETS: dict[str, Target] = {
    "mood": ClassificationTarget(kind="classification"),
    "score": RegressionTarget(kind="regression"),
}


EVERY_TARGET: dict[str, Target] = {
    "mood": ClassificationTarget(kind="classification", class_weights="balanced", label_smoothing=0.1),
    "tags": MultilabelTarget(kind="multilabel", positive_weights="balanced"),
    "grade": OrdinalTarget(kind="ordinal", classes=["poor", "fair", "good"]),
    "rating": OrdinalTarget(kind="ordinal", scale="sentiment"),
    "score": RegressionTarget(kind="regression", loss="huber"),
    "sentiment": RegressionTarget(kind="regression", loss="mae", scale="sentiment"),
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def targets() -> dict[str, Target]:
    return TARGETS


@pytest.fixture(scope="session")
def every_target() -> dict[str, Target]:
    """A target of every kind; `with_every_target` gives a table their columns."""
    return EVERY_TARGET


@pytest.fixture(scope="session")
def with_every_target() -> Callable[[pa.Table], pa.Table]:
    """Adds truths that follow from `score` (mean 10, std 7), unknown where it is."""
    return _with_every_target


def _with_every_target(table: pa.Table) -> pa.Table:
    level = [None if score is None else (score - 10) / 3 for score in table["score"].to_pylist()]
    columns = {
        "tags": [None if x is None else ["odd"] * (abs(x) > 1) + ["up"] * (x > 0) for x in level],
        "grade": [None if x is None else "poor" if x < -1 else "fair" if x < 1 else "good" for x in level],
        "rating": [None if x is None else round(min(3, max(-3, x)), 1) for x in level],
        "sentiment": [None if x is None else round(min(3, max(-3, x)), 1) for x in level],
    }
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, EVERY_TARGET[name].arrow_type))
    return table


@pytest.fixture(scope="session")
def make_table() -> Callable[..., pa.Table]:
    """`make_table(n, seed=0, missing=0.2)`: n rows; `mood` is high where audio + video is above 0."""
    return _make_table


def _make_table(n: int, seed: int = 0, missing: float = 0.2) -> pa.Table:
    rng = np.random.default_rng(seed)
    level = rng.normal(size=(n, 2))
    names = np.array(["high", "low"], dtype=object)[(level.sum(1) < 0).astype(int)]
    audio = [rng.normal(level[i, 0], 0.1, (rng.integers(1, 9), 3)) for i in range(n)]
    video = [rng.normal(level[i, 1], 0.1, (rng.integers(1, 5), 4)) for i in range(n)]
    words = [[str(names[i]), *rng.choice(["a", "b", "c"], rng.integers(0, 4))] for i in range(n)]

    def drop(values: list) -> list:
        return [None if rng.random() < missing else value for value in values]

    columns = {
        "sample_id": [f"s{i:04d}" for i in range(n)],
        "split": rng.choice(["train", "val", "test"], n, p=[0.6, 0.2, 0.2]).tolist(),
        "mood": drop(names.tolist()),
        "score": drop((10 + 5 * level.sum(1)).tolist()),
    }
    columns["split"][:3] = ["train", "val", "test"]
    for name, values in {"audio": drop(audio), "video": drop(video), "words": drop(words)}.items():
        shape = SHAPES[name]
        columns[name] = values if shape.dim is None else vectors_to_column(values, shape)
        columns[f"{name}_length"] = [0 if value is None else len(value) for value in values]
        columns[f"{name}_start_s"] = columns[f"{name}_step_s"] = [None] * n
    fields = [pa.field("sample_id", pa.string()), pa.field("split", pa.string())]
    fields += [pa.field(name, target.arrow_type) for name, target in TARGETS.items()]
    for name, shape in SHAPES.items():
        of_feature = feature_schema(name, shape)
        fields += [field for field in of_feature if field.name.startswith(name)]
    return pa.Table.from_pydict(columns, schema=pa.schema(fields))
