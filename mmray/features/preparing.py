"""Samples → each feature fetched and decoded, or the reason why not; on a CPU."""

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from mmray.decode.choice import choose_decoders
from mmray.decode.isolation import Sandbox
from mmray.decode.media import decode
from mmray.errors import MediaError
from mmray.features.base import Step, Text
from mmray.features.kinds import Feature, kind_of
from mmray.features.weights import with_local_weights
from mmray.storage.filesystem import Storage

__all__ = ["Preparation", "Prepared", "error_entry", "timed"]


@dataclass
class Prepared:
    """Samples with each feature decoded; lists run parallel to the rows of `samples`."""

    samples: pa.Table
    wanted: dict[str, list[bool]]
    """Of each feature, the rows that were asked for."""
    steps: dict[str, list[Step | None]]
    errors: dict[str, list[dict[str, Any] | None]]
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Spent in `fetch` and `decode`."""
    fetched_bytes: int = 0
    """Of the media files fetched, each counted once."""


class Preparation:
    """Fetches and decodes samples; decodes in `sandbox`, where there is one."""

    def __init__(
        self,
        features: Mapping[str, Feature],
        storage: Storage,
        decoder: str = "auto",
        sandbox: Sandbox | None = None,
    ):
        """`decoder` as `extract.decoder` has it.

        Raises:
            ConfigError: where it does not work here.
            TableError: where a model that says how its input looks is not there.

        """
        self.features = with_local_weights(features, storage)
        self.storage = storage
        self.decoders = choose_decoders(decoder)
        self.sandbox = sandbox
        self.kinds = {name: kind_of(feature) for name, feature in self.features.items()}
        self.inputs = {name: self.kinds[name].takes(feature) for name, feature in self.features.items()}

    def __call__(self, samples: pa.Table, wanted: Mapping[str, Sequence[bool]] | None = None) -> Prepared:
        """Decode every sample of a table; nothing a sample does raises.

        `wanted` says of which rows each feature is to be made; default: of all.
        """
        with LocalMedia(self.storage, samples) as media:
            return self._prepared(samples, self._masks(samples, wanted), media, 0)

    def slices(
        self, samples: pa.Table, slice_samples: int, wanted: Mapping[str, Sequence[bool]] | None = None
    ) -> Generator[Prepared, None, None]:
        """The same, `slice_samples` rows at a time; a file that several slices share is fetched once."""
        masks = self._masks(samples, wanted)
        with LocalMedia(self.storage, samples) as media:
            for first in range(0, samples.num_rows, slice_samples):
                rows = samples.slice(first, slice_samples)
                here = {name: mask[first : first + rows.num_rows] for name, mask in masks.items()}
                yield self._prepared(rows, here, media, first)

    def _masks(self, samples: pa.Table, wanted: Mapping[str, Sequence[bool]] | None) -> dict[str, list[bool]]:
        every = [True] * samples.num_rows
        return {name: list(wanted[name]) if wanted else every for name in self.features}

    def _prepared(
        self, samples: pa.Table, wanted: dict[str, list[bool]], media: "LocalMedia", first: int
    ) -> Prepared:
        """`first` is the place of `samples` in the table that `media` was made for."""
        names = list(self.features)
        prepared = Prepared(samples, wanted, {name: [] for name in names}, {name: [] for name in names})
        fetched_before = media.fetched_bytes
        for row, sample in enumerate(samples.to_pylist()):
            for name, feature in self.features.items():
                step = fault = None
                try:
                    if wanted[name][row]:
                        step = self._step(name, feature, sample, media, prepared.seconds)
                except MediaError as error:
                    fault = error_entry(error)
                prepared.steps[name].append(step)
                prepared.errors[name].append(fault)
            media.drop(first + row)
        prepared.fetched_bytes = media.fetched_bytes - fetched_before
        return prepared

    def _step(
        self, name: str, feature: Feature, sample: dict, media: "LocalMedia", seconds: dict[str, float]
    ) -> Step:
        value = sample[feature.source]
        if value is None and feature.source == "audio":
            value = sample.get("video")
        if value is None:
            raise MediaError("absent", f"the sample has no {feature.source}")
        prepare, wanted, sample_id = self.kinds[name].prepare, self.inputs[name], sample["sample_id"]
        if isinstance(wanted, Text):
            return prepare(feature, value, sample_id)
        with timed(seconds, "fetch"):
            path = media.path(value)
        with timed(seconds, "decode"):
            segment = {"start_s": sample["start_s"], "end_s": sample["end_s"]}
            arguments = (wanted, path, segment, self.decoders)
            decoded = self.sandbox.call(decode, *arguments) if self.sandbox else decode(*arguments)
            return prepare(feature, decoded, sample_id)


class LocalMedia:
    """Media as local paths; a file that several samples share is fetched once, and dropped after the last."""

    def __init__(self, storage: Storage, samples: pa.Table):
        self.storage = storage
        sources = [name for name in ("video", "audio", "image") if name in samples.column_names]
        self.last_use: dict[str, int] = {}
        for row, uris in enumerate(samples.select(sources).to_pylist()):
            self.last_use.update({uri: row for uri in uris.values() if uri is not None})
        self.copies: dict[str, contextlib.ExitStack] = {}
        self.paths: dict[str, str | MediaError] = {}
        self.fetched_bytes = 0

    def path(self, uri: str) -> str:
        """The local path of `uri`; raises MediaError `missing_file` or `fetch_failed`."""
        if uri not in self.paths:
            stack = contextlib.ExitStack()
            try:
                self.paths[uri] = path = stack.enter_context(self.storage.media(uri))
                self.copies[uri] = stack
                self.fetched_bytes += os.path.getsize(path)
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

    def __enter__(self) -> "LocalMedia":
        return self

    def __exit__(self, *exception: object) -> None:
        for stack in self.copies.values():
            stack.close()


def error_entry(error: MediaError) -> dict[str, Any]:
    """The `error` of a row."""
    stages = {"absent": "samples", "missing_file": "fetch", "fetch_failed": "fetch"}
    return {
        "stage": stages.get(error.reason, "decode"),
        "reason": error.reason,
        "detail": error.detail[:500],
        "attempts": error.attempts,
    }


@contextlib.contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Adds the seconds spent inside to a stage's."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] += time.perf_counter() - start
