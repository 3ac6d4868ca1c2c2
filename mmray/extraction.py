"""One partition of samples → one partition of the feature table; every sample in is a row out.

Two steps, so that they can run in one actor or in two pools:

    prepare   CPU: fetch, decode, and all that needs no network (mel, words); pictures as uint8
    encode    GPU or CPU: pictures and texts of many samples through a network at once; the Arrow rows

What fails for one modality of one sample becomes an entry of its row's `errors`, and that modality is
null. Between the two pools a partition travels as one Arrow table of plain binary columns.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from mmray.config import Feature, FramesFeature, MelFeature, Target, TextFeature, TokensFeature
from mmray.decode.audio import decode_audio
from mmray.decode.image import PictureGeometry, decode_image
from mmray.decode.video import decode_frames
from mmray.encode.frames import FrameEncoder, picture_geometry
from mmray.encode.mel import add_white_noise, log_mel
from mmray.encode.text import TextEncoder, tokenize
from mmray.errors import MediaError
from mmray.storage import Storage
from mmray.tables import ERRORS, FeatureShape, feature_schema, vectors_to_column

__all__ = ["Encoding", "Preparation", "Prepared", "from_arrow", "to_arrow"]


class Step(NamedTuple):
    """One modality of one sample: uint8 pictures [T, H, W, 3], vectors [T, D], words, or a text."""

    value: np.ndarray | list[str] | str
    start_s: float | None = None
    step_s: float | None = None


@dataclass
class Prepared:
    """Samples with each feature decoded; lists run parallel to the rows of `samples`."""

    samples: pa.Table
    steps: dict[str, list[Step | None]]
    errors: list[list[dict[str, Any]]]
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Spent in `fetch` and `decode`."""


# ------------------------------------------------------------------------------------ prepare


class Preparation:
    """Fetches and decodes samples on a CPU."""

    def __init__(self, features: Mapping[str, Feature], storage: Storage):
        self.features = features
        self.storage = storage
        self.geometries: dict[str, PictureGeometry] = {
            name: picture_geometry(feature.encoder, feature.size, feature.crop)
            for name, feature in features.items()
            if isinstance(feature, FramesFeature)
        }

    def __call__(self, samples: pa.Table) -> Prepared:
        """Decode every sample of a table; nothing a sample does raises."""
        with _LocalMedia(self.storage, samples) as media:
            return self._prepared(samples, media)

    def slices(self, samples: pa.Table, slice_samples: int) -> Generator[Prepared, None, None]:
        """The same, `slice_samples` rows at a time; a file that several slices share is fetched once."""
        with _LocalMedia(self.storage, samples) as media:
            for first in range(0, samples.num_rows, slice_samples):
                yield self._prepared(samples.slice(first, slice_samples), media, first)

    def _prepared(self, samples: pa.Table, media: "_LocalMedia", first: int = 0) -> Prepared:
        """`first` is the place of `samples` in the table that `media` was made for."""
        prepared = Prepared(samples, {name: [] for name in self.features}, [])
        for row, sample in enumerate(samples.to_pylist(), start=first):
            errors: list[dict[str, Any]] = []
            for name, feature in self.features.items():
                step = None
                try:
                    step = self._step(name, feature, sample, media, prepared.seconds)
                except MediaError as error:
                    errors.append(_error_entry(name, error))
                prepared.steps[name].append(step)
            prepared.errors.append(errors)
            media.drop(row)
        return prepared

    def _step(
        self, name: str, feature: Feature, sample: dict, media: "_LocalMedia", seconds: dict[str, float]
    ) -> Step:
        value = sample[feature.source]
        if value is None and feature.source == "audio":
            value = sample.get("video")
        if value is None:
            raise MediaError("absent", f"the sample has no {feature.source}")
        if isinstance(feature, TokensFeature | TextFeature):
            return _text_step(feature, value)
        with _timed(seconds, "fetch"):
            path = media.path(value)
        with _timed(seconds, "decode"):
            segment = {"start_s": sample["start_s"], "end_s": sample["end_s"]}
            if isinstance(feature, MelFeature):
                return _mel_step(feature, path, segment, sample["sample_id"])
            geometry = self.geometries[name]
            if feature.source == "image":
                return Step(*decode_image(path, geometry))
            assert isinstance(feature, FramesFeature), "imported features are not extracted"
            return Step(*decode_frames(path, frames=feature.frames, resize=geometry, **segment))


def _text_step(feature: TokensFeature | TextFeature, text: str) -> Step:
    if isinstance(feature, TokensFeature):
        words = tokenize(text, lowercase=feature.lowercase, max_tokens=feature.max_tokens)
    else:
        words = tokenize(text)
    if not words:
        raise MediaError("empty", "the text has no words")
    return Step(words if isinstance(feature, TokensFeature) else text)


def _mel_step(feature: MelFeature, path: str, segment: dict[str, float | None], sample_id: str) -> Step:
    rate_hz = feature.sample_rate_hz
    samples = decode_audio(path, sample_rate_hz=rate_hz, **segment).samples
    if not np.isfinite(samples).all():  # floating-point formats can hold anything
        raise MediaError("corrupt", "the sound has samples that are no numbers")
    if feature.snr_db is not None:
        samples = add_white_noise(
            samples, snr_db=feature.snr_db, seed_text=sample_id, seed=feature.noise_seed
        )
    mel = log_mel(
        samples,
        sample_rate_hz=rate_hz,
        n_mels=feature.n_mels,
        window_ms=feature.window_ms,
        hop_ms=feature.hop_ms,
    )
    hop = max(1, round(feature.hop_ms * rate_hz / 1000))  # whole samples, as log_mel takes it
    return Step(mel, 0.0, hop / rate_hz)


class _LocalMedia:
    """Media as local paths; a file that several samples share is fetched once, and dropped after the last."""

    def __init__(self, storage: Storage, samples: pa.Table):
        self.storage = storage
        sources = [name for name in ("video", "audio", "image") if name in samples.column_names]
        self.last_use: dict[str, int] = {}
        for row, uris in enumerate(samples.select(sources).to_pylist()):
            self.last_use.update({uri: row for uri in uris.values() if uri is not None})
        self.copies: dict[str, contextlib.ExitStack] = {}
        self.paths: dict[str, str | MediaError] = {}

    def path(self, uri: str) -> str:
        """The local path of `uri`; raises MediaError `missing_file` or `fetch_failed`."""
        if uri not in self.paths:
            stack = contextlib.ExitStack()
            try:
                self.paths[uri] = stack.enter_context(self.storage.media(uri))
                self.copies[uri] = stack
            except MediaError as error:
                self.paths[uri] = error
        found = self.paths[uri]
        if isinstance(found, MediaError):
            raise found
        return found

    def drop(self, row: int) -> None:
        """Remove the copies that no sample after `row` needs."""
        for uri in [uri for uri in self.copies if self.last_use[uri] <= row]:
            self.copies.pop(uri).close()

    def __enter__(self) -> "_LocalMedia":
        return self

    def __exit__(self, *exception: object) -> None:
        for stack in self.copies.values():
            stack.close()


def _error_entry(modality: str, error: MediaError) -> dict[str, Any]:
    stages = {"absent": "samples", "missing_file": "fetch", "fetch_failed": "fetch"}
    return {
        "stage": stages.get(error.reason, "decode"),
        "modality": modality,
        "reason": error.reason,
        "detail": error.detail[:500],
        "attempts": 1,
    }


@contextlib.contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] += time.perf_counter() - start


# ------------------------------------------------------------------------------------ encode


class Encoding:
    """Puts pictures and texts through their networks and builds the rows of the feature table."""

    def __init__(
        self,
        features: Mapping[str, Feature],
        targets: Mapping[str, Target],
        *,
        encode_batch: int,
        device: str = "cpu",
    ):
        self.features = features
        self.encode_batch = encode_batch
        self.frame_encoders: dict[str, FrameEncoder] = {}
        self.text_encoders: dict[str, TextEncoder] = {}
        shapes: dict[str, FeatureShape] = {}
        for name, feature in features.items():
            if isinstance(feature, FramesFeature):
                encoder = FrameEncoder(feature.encoder, feature.weights, feature.seed).to(device)
                self.frame_encoders[name] = encoder
                shapes[name] = FeatureShape(encoder.dim, feature.dtype)
            elif isinstance(feature, TextFeature):
                encoder = TextEncoder(feature.model, feature.max_tokens, feature.pooling).to(device)
                self.text_encoders[name] = encoder
                shapes[name] = FeatureShape(encoder.dim, feature.dtype)
            elif isinstance(feature, MelFeature):
                shapes[name] = FeatureShape(feature.n_mels, feature.dtype)
            else:
                shapes[name] = FeatureShape(None)
        self.shapes = shapes
        self.targets = targets
        self.device = device

    def __call__(self, prepared: Prepared) -> pa.Table:
        """Feature rows of the samples, in their order, with `feature_schema`'s types."""
        samples, columns = prepared.samples, {}
        for name in ("sample_id", "split", *self.targets):
            columns[name] = samples[name]
        with _timed(prepared.seconds, "encode"):
            for name, shape in self.shapes.items():
                steps = self._encoded(name, prepared.steps[name])
                columns[name] = _values_column(steps, shape)
                columns[f"{name}_length"] = [0 if step is None else len(step.value) for step in steps]
                columns[f"{name}_start_s"] = [step and step.start_s for step in steps]
                columns[f"{name}_step_s"] = [step and step.step_s for step in steps]
        columns["errors"] = prepared.errors
        schema = feature_schema(self.shapes, self.targets)
        return pa.table([_as_array(columns[field.name], field.type) for field in schema], schema=schema)

    def _encoded(self, name: str, steps: list[Step | None]) -> list[Step | None]:
        present = [row for row, step in enumerate(steps) if step is not None]
        if not present or not (name in self.frame_encoders or name in self.text_encoders):
            return steps
        values = [steps[row].value for row in present]  # pyright: ignore[reportOptionalMemberAccess]
        if name in self.frame_encoders:
            vectors = self._frame_vectors(self.frame_encoders[name], values)
        else:
            encoder = self.text_encoders[name]
            batches = (values[at : at + self.encode_batch] for at in range(0, len(values), self.encode_batch))
            vectors = [vector for texts in batches for vector in encoder(texts)]
        encoded = list(steps)
        for row, vector in zip(present, vectors, strict=True):
            encoded[row] = steps[row]._replace(value=vector)  # pyright: ignore[reportOptionalMemberAccess]
        return encoded

    def _frame_vectors(self, encoder: FrameEncoder, clips: list[Any]) -> list[np.ndarray]:
        """Pictures of all clips through the encoder in equal batches, cut back into clips."""
        pictures = torch.from_numpy(np.concatenate(clips))
        vectors = torch.cat(
            [encoder(batch.to(self.device)).cpu() for batch in pictures.split(self.encode_batch)]
        )
        return np.split(vectors.numpy(), np.cumsum([len(clip) for clip in clips])[:-1])


def _values_column(steps: list[Step | None], shape: FeatureShape) -> pa.Array:
    values: list[Any] = [step and step.value for step in steps]
    if shape.dim is None:
        return pa.array(values, shape.arrow_type)
    return vectors_to_column(values, shape)


def _as_array(values: Any, kind: pa.DataType) -> Any:
    return pa.array(values, kind) if isinstance(values, list) else values


# ------------------------------------------------------------------------------------ between pools


def to_arrow(prepared: Prepared) -> pa.Table:
    """A decoded partition as one Arrow table: arrays as bytes with shape and dtype, words as lists."""
    columns: dict[str, Any] = {"samples": prepared.samples.to_struct_array()}
    for name, steps in prepared.steps.items():
        arrays = [step.value if step and isinstance(step.value, np.ndarray) else None for step in steps]
        words = [step.value if step and isinstance(step.value, list) else None for step in steps]
        texts = [step.value if step and isinstance(step.value, str) else None for step in steps]
        columns |= {
            f"{name}.bytes": pa.array([a if a is None else a.tobytes() for a in arrays], pa.large_binary()),
            f"{name}.shape": pa.array([a if a is None else a.shape for a in arrays], pa.list_(pa.int64())),
            f"{name}.dtype": pa.array([a if a is None else str(a.dtype) for a in arrays], pa.string()),
            f"{name}.words": pa.array(words, pa.list_(pa.string())),
            f"{name}.text": pa.array(texts, pa.string()),
            f"{name}.start_s": pa.array([step and step.start_s for step in steps], pa.float64()),
            f"{name}.step_s": pa.array([step and step.step_s for step in steps], pa.float64()),
        }
    columns["errors"] = pa.array(prepared.errors, ERRORS.type)
    seconds = pa.array([dict(prepared.seconds)] * len(prepared.errors), pa.map_(pa.string(), pa.float64()))
    return pa.table({**columns, "seconds": seconds})


def from_arrow(table: pa.Table) -> Prepared:
    """The reverse of `to_arrow`; arrays are views of the table's memory."""
    names = [column.removesuffix(".bytes") for column in table.column_names if column.endswith(".bytes")]
    samples = pa.Table.from_struct_array(table["samples"])
    return Prepared(
        samples,
        {name: [_step_at(table, name, row) for row in range(table.num_rows)] for name in names},
        table["errors"].to_pylist(),
        defaultdict(float, table["seconds"][0].as_py() if table.num_rows else {}),
    )


def _step_at(table: pa.Table, name: str, row: int) -> Step | None:
    words = table[f"{name}.words"][row].as_py()
    value: Any = table[f"{name}.text"][row].as_py() if words is None else words
    if (shape := table[f"{name}.shape"][row].as_py()) is not None:
        raw = table[f"{name}.bytes"][row].as_buffer()
        value = np.frombuffer(raw, dtype=table[f"{name}.dtype"][row].as_py()).reshape(shape)
    if value is None:
        return None
    return Step(value, table[f"{name}.start_s"][row].as_py(), table[f"{name}.step_s"][row].as_py())
