"""Samples → each feature fetched and decoded, or the reason why not; on a CPU."""

import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from mmray.decode.choice import choose_decoders
from mmray.decode.isolation import Sandbox
from mmray.decode.media import decode
from mmray.errors import MediaError
from mmray.features.base import SLICE_BYTES, Step, Text
from mmray.features.fetching import LocalMedia
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
        self.inputs: dict[str, Any] = {}
        self.prepares: dict[str, Callable[[Any, Any, str], Step]] = {}
        for name, feature in self.features.items():
            kind = kind_of(feature)
            assert kind.takes, "imported features are not extracted"
            assert kind.prepare, "what is taken is prepared"
            self.inputs[name], self.prepares[name] = kind.takes(feature), kind.prepare

    def __call__(self, samples: pa.Table, wanted: Mapping[str, Sequence[bool]] | None = None) -> Prepared:
        """Decode every sample of a table; nothing a sample does raises.

        `wanted` says of which rows each feature is to be made; default: of all.
        """
        whole = next(self.slices(samples, wanted, slice_bytes=sys.maxsize), None)
        return whole or _Rows(self.features).prepared(samples)

    def slices(
        self,
        samples: pa.Table,
        wanted: Mapping[str, Sequence[bool]] | None = None,
        slice_bytes: int = SLICE_BYTES,
    ) -> Generator[Prepared, None, None]:
        """The same, some rows at a time: as many as fill `slice_bytes` with what was decoded, at least one.

        A file that several rows share is fetched once, and files of the next rows are fetched meanwhile.
        """
        wanted = wanted or {name: [True] * samples.num_rows for name in self.features}
        rows = samples.to_pylist()
        uses = [
            self._files(sample, [name for name in wanted if wanted[name][at]])
            for at, sample in enumerate(rows)
        ]
        first, found = 0, _Rows(self.features)
        with LocalMedia(self.storage, uses) as media:
            for at, sample in enumerate(rows):
                for name in self.features:
                    step = fault = None
                    try:
                        if wanted[name][at]:
                            step = self._step(name, sample, media, found.seconds)
                    except MediaError as error:
                        fault = error_entry(error)
                    found.add(name, wanted[name][at], step, fault)
                media.drop(at)
                if found.bytes >= slice_bytes or at + 1 == len(rows):
                    found.fetched_bytes, media.fetched_bytes = media.fetched_bytes, 0
                    yield found.prepared(samples.slice(first, at + 1 - first))
                    first, found = at + 1, _Rows(self.features)

    def _files(self, sample: dict[str, Any], names: Sequence[str]) -> list[str]:
        """The files that these features of a sample are made from."""
        media = [name for name in names if not isinstance(self.inputs[name], Text)]
        return [uri for name in media if (uri := _value(sample, self.features[name].source)) is not None]

    def _step(self, name: str, sample: dict[str, Any], media: LocalMedia, seconds: dict[str, float]) -> Step:
        feature, prepare = self.features[name], self.prepares[name]
        wanted, sample_id = self.inputs[name], sample["sample_id"]
        value = _value(sample, feature.source)
        if value is None:
            raise MediaError("absent", f"the sample has no {feature.source}")
        if isinstance(wanted, Text):
            return prepare(feature, value, sample_id)
        with timed(seconds, "fetch"):
            path = media.path(value)
        with timed(seconds, "decode"):
            segment = {"start_s": sample["start_s"], "end_s": sample["end_s"]}
            arguments = (wanted, path, segment, self.decoders)
            decoded = self.sandbox.call(decode, *arguments) if self.sandbox else decode(*arguments)
            return prepare(feature, decoded, sample_id)


class _Rows:
    """Rows that become a `Prepared`."""

    def __init__(self, features: Iterable[str]):
        self.wanted: dict[str, list[bool]] = {name: [] for name in features}
        self.steps: dict[str, list[Step | None]] = {name: [] for name in features}
        self.errors: dict[str, list[dict[str, Any] | None]] = {name: [] for name in features}
        self.seconds: dict[str, float] = defaultdict(float)
        self.fetched_bytes = self.bytes = 0

    def add(self, name: str, wanted: bool, step: Step | None, fault: dict[str, Any] | None) -> None:
        self.wanted[name].append(wanted)
        self.steps[name].append(step)
        self.errors[name].append(fault)
        self.bytes += getattr(step and step.value, "nbytes", 0)

    def prepared(self, samples: pa.Table) -> Prepared:
        return Prepared(samples, self.wanted, self.steps, self.errors, self.seconds, self.fetched_bytes)


def _value(sample: dict[str, Any], source: str) -> Any:
    """What a feature of this source is made from: of sounds, the video's where there is no other."""
    value = sample[source]
    return sample.get("video") if value is None and source == "audio" else value


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
