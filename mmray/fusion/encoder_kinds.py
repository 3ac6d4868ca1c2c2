"""Kinds of encoders: their settings, and how each is built (the modules are in `mmray.fusion.encoders`)."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator

from mmray.fusion.base import AttendingSection, EncoderKind, Readout
from mmray.settings import Fraction, Positive

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "ConvEncoder",
    "IdentityEncoder",
    "MlpEncoder",
    "RecurrentEncoder",
    "StretchEncoder",
    "TransformerEncoder",
]


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError("must be odd, so that it has a middle")
    return kernel


class MlpEncoder(EncoderKind):
    """Mean over time, then layers (for a fusion over steps: the layers on each step)."""

    kind: Literal["mlp"]
    hidden: Positive = 64
    layers: Positive = 1
    dropout: Fraction = 0.1

    def build(self, width_in: int, *, by_step: bool) -> "nn.Module":
        """A `PooledMLP`."""
        from mmray.fusion.encoders import PooledMLP

        return PooledMLP(width_in, self.hidden, self.layers, self.dropout)


class StretchEncoder(EncoderKind):
    """Stretched or shrunk over time to so many steps, flattened, then a layer: it knows what is where."""

    kind: Literal["stretch"]
    gives_steps: ClassVar[bool] = False
    steps: Positive = 16
    """Steps that every sample gets."""
    hidden: Positive = 64
    input_dropout: Fraction = 0.2
    """Of the flattened numbers, which are many."""
    dropout: Fraction = 0.1

    def build(self, width_in: int, *, by_step: bool) -> "nn.Module":
        """A `Stretch`."""
        from mmray.fusion.encoders import Stretch

        return Stretch(width_in, self.hidden, self.steps, self.input_dropout, self.dropout)


class IdentityEncoder(EncoderKind):
    """The vectors as they are."""

    kind: Literal["identity"]
    readout: Readout = "mean"

    def build(self, width_in: int, *, by_step: bool) -> "nn.Module":
        """An `Identity`."""
        from mmray.fusion.encoders import Identity
        from mmray.fusion.readouts import make_readout

        return Identity(width_in, readout=None if by_step else make_readout(self.readout, width_in))


class RecurrentEncoder(EncoderKind):
    """GRU or LSTM over time."""

    kind: Literal["gru", "lstm"]
    hidden: Positive = 64
    layers: Positive = 1
    bidirectional: bool = False
    dropout: Fraction = 0.1
    center: bool = False
    """Subtract each sample's mean over time first: what changes, not how it looks."""
    readout: Readout = "last"
    """Of the backward direction, `last` is the first step."""

    def build(self, width_in: int, *, by_step: bool) -> "nn.Module":
        """A `Recurrent`."""
        from mmray.fusion.encoders import Centred, Recurrent
        from mmray.fusion.readouts import make_readout

        width = self.hidden * (2 if self.bidirectional else 1)
        built = Recurrent(
            width_in,
            self.hidden,
            self.layers,
            self.dropout,
            cell=self.kind,
            bidirectional=self.bidirectional,
            readout=None if by_step else make_readout(self.readout, width, self.hidden),
        )
        return Centred(built) if self.center else built


class TransformerEncoder(AttendingSection, EncoderKind):
    """Self-attention over time."""

    kind: Literal["transformer"]
    layers: Positive = 1
    dropout: Fraction = 0.1
    center: bool = False
    """Subtract each sample's mean over time first: what changes, not how it looks."""
    readout: Readout = "mean"

    def build(self, width_in: int, *, by_step: bool) -> "nn.Module":
        """A `Transformer`."""
        from mmray.fusion.encoders import Centred, Transformer
        from mmray.fusion.readouts import make_readout

        readout = None if by_step else make_readout(self.readout, self.hidden)
        built = Transformer(
            width_in, self.hidden, self.layers, self.dropout, heads=self.heads, readout=readout
        )
        return Centred(built) if self.center else built


class ConvEncoder(EncoderKind):
    """Convolutions over time, each layer reaching twice as far."""

    kind: Literal["conv"]
    hidden: Positive = 64
    layers: Positive = 2
    kernel: Annotated[Positive, AfterValidator(_odd)] = 3
    """Steps a layer sees at once."""
    dropout: Fraction = 0.1
    center: bool = False
    """Subtract each sample's mean over time first: what changes, not how it looks."""
    readout: Readout = "mean"

    def build(self, width_in: int, *, by_step: bool) -> "nn.Module":
        """A `Conv`."""
        from mmray.fusion.encoders import Centred, Conv
        from mmray.fusion.readouts import make_readout

        readout = None if by_step else make_readout(self.readout, self.hidden)
        built = Conv(width_in, self.hidden, self.layers, self.dropout, kernel=self.kernel, readout=readout)
        return Centred(built) if self.center else built
