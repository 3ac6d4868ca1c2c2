"""What a kind of encoder and a kind of fusion is: settings as a config gives them, and `build`.

Settings are read without torch; `build` imports the modules it makes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from mmray.settings import Positive, Section

if TYPE_CHECKING:
    from torch import nn

__all__ = ["AttendingSection", "EncoderKind", "FusionKind", "Readout", "require_heads_divide"]

Readout = Literal["last", "mean", "attention", "at_zero"]
"""Steps over time to one vector: the last; their mean; a mean with learned weights; the one nearest 0 s,
for features that bring context from before and after the sample."""


class EncoderKind(Section, ABC):
    """Settings of an encoder: the steps of one feature → steps, or a vector a row."""

    kind: str
    gives_steps: ClassVar[bool] = True
    """Whether a fusion over steps can read it."""

    @abstractmethod
    def build(self, width_in: int, *, by_step: bool) -> "nn.Module":
        """The encoder of steps of this width (`mmray.fusion.encoders`); read by step it has no readout."""


class FusionKind(Section, ABC):
    """Settings of a fusion: the vectors or the steps of all features → outputs."""

    kind: str
    takes: ClassVar[Literal["vectors", "steps"]] = "vectors"

    @abstractmethod
    def build(self, widths: Mapping[str, int], outputs: Mapping[str, int]) -> "nn.Module":
        """A module called with what the fusion takes, which gives {target: [B, C]}.

        `widths` {feature: of its vector or step}, `outputs` {target: C}.

        Raises:
            ConfigError: where a fusion of these features would be too large.

        """


def require_heads_divide(hidden: int, heads: int) -> None:
    """Each head of attention reads an equal part of `hidden`.

    Raises:
        ValueError: where it cannot.

    """
    if hidden % heads:
        raise ValueError(f"hidden {hidden} is not divisible by heads {heads}")


class AttendingSection(Section):
    """Attention of several heads, each of an equal part of `hidden`."""

    hidden: Positive = 64
    heads: Positive = 4

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        require_heads_divide(self.hidden, self.heads)
        return self
