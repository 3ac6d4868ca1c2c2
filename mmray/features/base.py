"""What a kind of feature is: its settings, what it takes from a sample, its encoder, its columns.

    takes      settings → what is decoded for it: pictures, a sound at a rate, or the text as it is
    prepare    what was decoded → a `Step` for its encoder, or one that is stored as it is
    encoder    settings → a network as a function of many steps; None: stored as prepared

A kind is one file of this package and one line of `kinds.KINDS`; nothing else knows it. Settings are read
wherever a config is, so such a file imports torch and its relatives inside the functions that use them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from mmray.decode.wanted import Pictures, Sound
from mmray.errors import MediaError
from mmray.features.device import Device
from mmray.settings import Section

__all__ = [
    "SLICE_BYTES",
    "Cut",
    "Dtype",
    "Encoder",
    "FeatureSettings",
    "Kind",
    "Pooling",
    "Step",
    "Text",
    "joined",
    "pieces",
    "whole",
]

SLICE_BYTES = 16_000_000
"""Of what is decoded before it is passed on to be encoded: pictures, waveforms, about an encoder's batch."""

Pooling = Literal["none", "mean", "max"]
Dtype = Literal["float32", "float16"]


class FeatureSettings(Section):
    """The section of a feature; each kind adds its own."""

    kind: str
    source: str
    """The column of the samples it is made from."""

    def packages(self) -> tuple[str, ...]:
        """What these settings need beside the libraries of the kind; their versions can change its numbers.

        Raises:
            ConfigError: where one is not installed.

        """
        return ()


class Text(NamedTuple):
    """Wanted of a sample: its text."""


class Step(NamedTuple):
    """Of one sample: uint8 pictures [T, H, W, 3], a waveform [N], vectors [T, D], words or a text."""

    value: Any
    start_s: float | None = None
    """The time of the first step, seconds from the start of the sample."""
    step_s: float | None = None
    """From one step to the next."""
    times_s: np.ndarray | None = None
    """Of pictures: the time of each, float32 [T]."""
    boxes: np.ndarray | None = None
    """Of pictures cut around what is followed: the region of each, float32 [T, 4]."""


class Cut(NamedTuple):
    """Where a long value may be cut, along its first axis: the encoder's vectors of the pieces follow each
    other as those of the whole do.
    """

    every: int
    overlap: int = 0
    """What a piece has of the next one."""


class Encoder(Protocol):
    """Steps as they were prepared → one with vectors [T, dim] each, or the reason why there is none."""

    dim: int

    @property
    def cut(self) -> Cut | None:
        """Where a step may be cut; None: nowhere."""
        ...

    def __call__(self, steps: Sequence[Step]) -> Iterable[Step | MediaError]:
        """One an item, in order."""
        ...


@dataclass(frozen=True)
class Kind:
    """A kind of feature. Functions get the feature's settings first."""

    settings: type[FeatureSettings]
    takes: Callable[[Any], Pictures | Sound | Text] | None = None
    """None: made elsewhere, and imported."""
    prepare: Callable[[Any, Any, str], Step] | None = None
    """(settings, what was decoded, sample id) → the step; a MediaError is the sample's fault."""
    encoder: Callable[[Any, Device], Encoder] | None = None
    dim: Callable[[Any], int | None] | None = None
    """Numbers of a step, where there is no encoder to say so; None: words."""
    timed: bool = False
    """Whether each step has a time of its own."""
    weights: str | None = None
    """The setting that names a file or folder of weights."""
    code: str | None = None
    """The setting that may name code of the user's own, `package.module:function`."""
    libraries: tuple[str, ...] = ()
    """Packages whose versions can change its numbers, beside the decoders."""

    @property
    def name(self) -> str:
        """As `kind` of a feature has it."""
        return self.settings.model_fields["kind"].annotation.__args__[0]  # pyright: ignore

    @property
    def columns(self) -> tuple[str, ...]:
        """What the feature's name is followed by in the columns of its table."""
        return ("", "_length", "_start_s", "_step_s", *(("_times_s", "_boxes") if self.timed else ()))


def pieces(step: Step, cut: Cut | None, most_bytes: int) -> list[Step]:
    """A step in pieces of at most so many bytes, where it is larger and may be cut."""
    size = getattr(step.value, "nbytes", 0)
    if cut is None or size <= most_bytes:
        return [step]
    value = step.value
    length = max(1, most_bytes * len(value) // size // cut.every) * cut.every
    starts = range(0, max(1, len(value) - cut.overlap), length)
    return [step._replace(value=value[at : at + length + cut.overlap]) for at in starts]


def whole(encoded: Sequence[Step | MediaError]) -> Step | MediaError:
    """What the encoder made of the `pieces` of a step, as if it had had the whole.

    A rest at the end may be too short for it (`empty`).
    """
    first, *rest = encoded
    if isinstance(first, MediaError):
        return first
    if fault := next((p for p in rest if isinstance(p, MediaError) and p.reason != "empty"), None):
        return fault
    parts = [part.value for part in encoded if isinstance(part, Step)]
    return first._replace(value=np.concatenate(parts)) if len(parts) > 1 else first


def joined(parts: Iterator[np.ndarray | MediaError], lengths: Sequence[int]) -> Iterator[Any]:
    """Results of consecutive pieces, `lengths` of them a sample: joined, or the first that is a fault."""
    for length in lengths:
        own = [next(parts) for _ in range(length)]
        fault = next((part for part in own if isinstance(part, MediaError)), None)
        vectors = [part for part in own if not isinstance(part, MediaError)]
        yield fault or (np.concatenate(vectors) if vectors else np.zeros((0, 0), np.float32))
