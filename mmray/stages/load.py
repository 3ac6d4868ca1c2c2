"""A trained model in this process, without Ray: a few samples in, their predictions out.

    {video: …, text: …} ──▶ fetch, decode ──▶ encode ──▶ fuse ──▶ a row a sample, for a notebook or a service

The same code does the same work as in the actors of `extract` and `score`, so the predictions are theirs. For
many samples use `mmray.score`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mmray.config import Config
from mmray.config.explain import did_you_mean
from mmray.config.running import ScoreConfig
from mmray.config.samples import MEDIA_SOURCES
from mmray.errors import SamplesError
from mmray.samples.checks import plan_sources
from mmray.stages.extract_actors import preparation
from mmray.stages.score_samples import project_of, trained_models
from mmray.storage.filesystem import Storage
from mmray.storage.scratch import scratch_folder
from mmray.storage.uris import absolute
from mmray.tables.schemas import FeatureShape, columns_of, vectors_to_column

if TYPE_CHECKING:
    import pandas as pd

    from mmray.features.preparing import Prepared
    from mmray.training.predict import Predictor

__all__ = ["Model", "load"]


def load(model: str, device: str | None = None) -> "Model":
    """A trained model, to predict with here: `mmray.load(MODEL).predict([{"video": "a.mp4", "text": "hi"}])`.

    Args:
        model: The folder of a model or of its training, local or s3://.
        device: `cpu`, `cuda`; default: a GPU where torch sees one.

    Raises:
        TableError: where there is no model, or its features cannot be made here as they were.
        ConfigError: where an encoder or decoder that it needs is not installed.
    """
    import torch

    from mmray.training.checkpoint import load_predictor

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    storage = Storage()
    (found,) = trained_models([model], storage)
    config = project_of([found], {"manifest": "none.jsonl"}, "none")
    with scratch_folder() as folder:
        predictor = load_predictor(storage.copy_down(found.folder, folder), device)
    return Model(predictor, config, storage, device)


class Model:
    """A trained model with the encoders of its features. Not for several threads at once.

    Decoding runs in a child process, which a file may crash; `close()`, or `with`, ends it.
    """

    def __init__(self, predictor: "Predictor", config: Config, storage: Storage, device: str):
        from mmray.features.device import Device
        from mmray.features.encoding import Encoding

        self.predictor, self.config = predictor, config
        own = {name: feature for name, feature in config.features.items() if feature.kind != "imported"}
        self._prepare = preparation(config, storage, config.extract.decoder, own) if own else None
        placed = Device(device, config.extract.encode_batch, config.extract.precision)
        self._encoding = Encoding(own, device=placed, storage=storage)

    @property
    def fingerprint(self) -> str:
        """What its predictions are known by."""
        return self.predictor.fingerprint

    @property
    def features(self) -> list[str]:
        """The features it reads."""
        return list(self.config.features)

    @property
    def targets(self) -> dict[str, list[str] | None]:
        """{target: its classes, in the order of the probabilities; None for a number}."""
        return {name: target.names for name, target in self.predictor.spec.targets.items()}

    def predict(
        self, samples: "Sequence[Mapping[str, Any]] | pd.DataFrame", **options: Any
    ) -> "pd.DataFrame":
        """Predictions as a data frame, a row a sample in the same order; see `records`."""
        import pandas as pd

        return pd.DataFrame(self.records(samples, **options))

    def records(
        self, samples: "Sequence[Mapping[str, Any]] | pd.DataFrame", **options: Any
    ) -> list[dict[str, Any]]:
        """Predictions as plain values, a row a sample in the same order.

        A sample has any of `video`, `audio`, `image` (paths or URIs), `text`, `start_s`, `end_s`,
        `sample_id`; or, under a feature's own name, its vectors [T, D] or words, as imported features need.
        What it lacks is a missing modality.

        Args:
            samples: Mappings, or a data frame.
            options: Those of `score` that say what predictions tell: `top_k`, `abstain_below`, ….

        Returns:
            {sample_id, TARGET_predicted, TARGET_probabilities ({class: probability}), present, error} of
            each, and `failed`, {feature: why it could not be made}.

        Raises:
            SamplesError: where a sample has a key that is none of these.
        """
        rows = samples if isinstance(samples, Sequence) else samples.to_dict("records")
        table, failed = self._features([dict(row) for row in rows])
        made = self.predictor.predict(table, options=ScoreConfig.model_validate(options))
        hidden = {"split", "model", *self.predictor.spec.targets}
        found = []
        for row, why in zip(made.to_pylist(), failed):
            told = {key: value for key, value in row.items() if key not in hidden}
            for target, names in self.targets.items():
                p = told.get(f"{target}_probabilities")
                if p is not None and names:
                    told[f"{target}_probabilities"] = dict(zip(names, p))
            found.append({**told, "failed": why})
        return found

    def close(self) -> None:
        """End the process that decodes; another call starts another."""
        if self._prepare and self._prepare.sandbox:
            self._prepare.sandbox.close()

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -------------------------------------------------------------------------------- features

    def _features(self, rows: list[dict[str, Any]]) -> tuple[pa.Table, list[dict[str, str]]]:
        """The rows as scoring reads them, and {feature: why it is not there} of each."""
        self._check(rows)
        given = {name for row in rows for name in self.features if row.get(name) is not None}
        ids = [str(row.get("sample_id", at)) for at, row in enumerate(rows)]
        table = pa.table({"sample_id": ids, "split": pa.array([None] * len(rows), pa.string())})
        failed: list[dict[str, str]] = [{} for _ in rows]
        if self._prepare and rows:
            wanted = {name: [name not in given] * len(rows) for name in self._encoding.shapes}
            prepared: Prepared = self._prepare(self._samples(rows, ids), wanted)
            for name, made in self._encoding(prepared).items():
                if name in given:
                    continue
                for why, error in zip(failed, made["error"].to_pylist()):
                    if error and error["reason"] != "absent":
                        why[name] = f"{error['reason']}: {error['detail']}".rstrip(": ")
                table = _with(table, name, made)
        for name in self.features:
            if name not in table.column_names:
                table = _with(table, name, self._given(name, [row.get(name) for row in rows]))
        return table, failed

    def _check(self, rows: list[dict[str, Any]]) -> None:
        known = [*MEDIA_SOURCES, "start_s", "end_s", "sample_id", *self.features]
        for at, row in enumerate(rows):
            if strange := [key for key in row if key not in known]:
                hint = did_you_mean(strange[0], known)
                raise SamplesError(
                    f"sample {at}: {', '.join(map(str, strange))} is nothing that is read{hint}"
                )

    def _samples(self, rows: list[dict[str, Any]], ids: list[str]) -> pa.Table:
        """The columns of an index that the features are made from."""
        columns: dict[str, Any] = {"sample_id": ids}
        for source in plan_sources(self.config):
            values = [_told(row.get(source)) for row in rows]
            if source != "text":
                values = [None if value is None else absolute(str(value)) for value in values]
            columns[source] = pa.array(values, pa.string())
        for name in ("start_s", "end_s"):
            columns[name] = pa.array([_told(row.get(name)) for row in rows], pa.float64())
        return pa.table(columns)

    def _given(self, name: str, values: list[Any]) -> pa.Table:
        """A feature's own columns of what a caller gives: vectors or words."""
        shape = self.predictor.spec.shapes[name]
        if shape.kind == "words":
            of_words = FeatureShape(None)
            return pa.table({name: pa.array(values, of_words.arrow_type)})
        size = FeatureShape(shape.size)
        vectors = [
            None if value is None else np.atleast_2d(np.asarray(value, np.float32)) for value in values
        ]
        for at, each in enumerate(vectors):
            if each is not None and (each.ndim != 2 or each.shape[1] != shape.size):
                told = f"sample {at}: {name} has shape {list(each.shape)}"
                raise SamplesError(f"{told}, the model reads [T, {shape.size}]")
        return pa.table({name: vectors_to_column(vectors, size)})


def _with(table: pa.Table, name: str, made: pa.Table) -> pa.Table:
    """With the columns of a feature that scoring reads."""
    for column in columns_of(name):
        if column in made.column_names:
            table = table.append_column(column, made[column])
        elif not column.endswith("_times_s"):
            table = table.append_column(column, pa.nulls(table.num_rows, pa.float32()))
    return table


def _told(value: Any) -> Any:
    """None also for the NaN that a data frame has where nothing is."""
    return None if isinstance(value, float) and np.isnan(value) else value
