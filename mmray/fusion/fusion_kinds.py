"""Kinds of fusions: their settings, and how each is built.

The modules are in `mmray.fusion.fusions` (over vectors), `sequence`, `grid` and `crossing` (over steps).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from mmray.fusion.base import AttendingSection, FusionKind, Readout, require_heads_divide
from mmray.settings import Fraction, Positive

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "BottleneckFusion",
    "ConcatFusion",
    "CrossAttentionFusion",
    "LateFusion",
    "LowRankFusion",
    "SequenceFusion",
    "SpatialFusion",
    "TensorFusion",
    "WeightedFusion",
]


def _with_heads(fusion: "nn.Module", width: int, outputs: Mapping[str, int]) -> "nn.Module":
    """A fusion that gives one vector a row, and a head a target."""
    from mmray.fusion.heads import FusedHeads, Heads

    return FusedHeads(fusion, Heads(width, outputs))


class LateFusion(FusionKind):
    """Decision-level: each modality predicts; the mean over the modalities present."""

    kind: Literal["late"]

    def build(self, widths: Mapping[str, int], outputs: Mapping[str, int]) -> "nn.Module":
        """Has heads of its own."""
        from mmray.fusion import fusions

        return fusions.LateFusion(widths, outputs)


class ConcatFusion(FusionKind):
    """Feature-level: the modalities' vectors side by side, then a layer."""

    kind: Literal["concat"]
    hidden: Positive = 64
    dropout: Fraction = 0.1

    def build(self, widths: Mapping[str, int], outputs: Mapping[str, int]) -> "nn.Module":
        """`fusions.ConcatFusion` under heads."""
        from mmray.fusion import fusions

        return _with_heads(fusions.ConcatFusion(widths, self.hidden, self.dropout), self.hidden, outputs)


class WeightedFusion(FusionKind):
    """Gates weigh the modalities' vectors against each other, unit by unit (GMU)."""

    kind: Literal["weighted"]
    hidden: Positive = 64
    dropout: Fraction = 0.1

    def build(self, widths: Mapping[str, int], outputs: Mapping[str, int]) -> "nn.Module":
        """`fusions.WeightedFusion` under heads."""
        from mmray.fusion import fusions

        return _with_heads(fusions.WeightedFusion(widths, self.hidden, self.dropout), self.hidden, outputs)


class TensorFusion(FusionKind):
    """All products of the modalities' units, then a layer (TFN); its size is a product of widths."""

    kind: Literal["tensor"]
    hidden: Positive = 64
    dropout: Fraction = 0.1

    def build(self, widths: Mapping[str, int], outputs: Mapping[str, int]) -> "nn.Module":
        """`fusions.TensorFusion` under heads."""
        from mmray.fusion import fusions

        return _with_heads(fusions.TensorFusion(widths, self.hidden, self.dropout), self.hidden, outputs)


class LowRankFusion(FusionKind):
    """The tensor fusion with weights of low rank (LMF)."""

    kind: Literal["low_rank"]
    hidden: Positive = 64
    rank: Positive = 4
    dropout: Fraction = 0.1

    def build(self, widths: Mapping[str, int], outputs: Mapping[str, int]) -> "nn.Module":
        """`fusions.LowRankFusion` under heads."""
        from mmray.fusion import fusions

        fused = fusions.LowRankFusion(widths, self.hidden, self.rank, self.dropout)
        return _with_heads(fused, self.hidden, outputs)


class SequenceFusion(FusionKind):
    """The steps of all modalities merged in the order of time, then a sequence model."""

    kind: Literal["sequence"]
    takes: ClassVar = "steps"
    cell: Literal["lstm", "transformer"] = "lstm"
    hidden: Positive = 64
    layers: Positive = 1
    bidirectional: bool = False
    """Of an LSTM."""
    heads: Positive = 4
    """Of a Transformer."""
    dropout: Fraction = 0.1
    readout: Readout = "last"

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.cell == "transformer":
            require_heads_divide(self.hidden, self.heads)
        return self

    def build(self, widths: Mapping[str, int], outputs: Mapping[str, int]) -> "nn.Module":
        """`sequence.SequenceFusion` over an encoder of the merged steps, under heads."""
        from mmray.fusion import encoders, sequence
        from mmray.fusion.readouts import make_readout

        sizes = (self.hidden, self.hidden, self.layers, self.dropout)
        if self.cell == "transformer":
            readout = make_readout(self.readout, self.hidden)
            model = encoders.Transformer(*sizes, heads=self.heads, readout=readout)
        else:
            both_ways = self.bidirectional
            readout = make_readout(self.readout, self.hidden * (2 if both_ways else 1), self.hidden)
            model = encoders.Recurrent(*sizes, cell="lstm", bidirectional=both_ways, readout=readout)
        return _with_heads(sequence.SequenceFusion(widths, self.hidden, model), model.width, outputs)


class SpatialFusion(FusionKind):
    """Steps of all modalities averaged into the cells of one time grid, then mixed across all cells."""

    kind: Literal["spatial"]
    takes: ClassVar = "steps"
    cells: Positive = 16
    hidden: Positive = 64
    layers: Positive = 2
    dropout: Fraction = 0.1

    def build(self, widths: Mapping[str, int], outputs: Mapping[str, int]) -> "nn.Module":
        """`grid.SpatialFusion` under heads."""
        from mmray.fusion import grid

        fused = grid.SpatialFusion(widths, self.hidden, self.cells, self.layers, self.dropout)
        return _with_heads(fused, self.hidden, outputs)


class CrossAttentionFusion(AttendingSection, FusionKind):
    """Each modality's steps attend to those of each other modality (MulT)."""

    kind: Literal["cross_attention"]
    takes: ClassVar = "steps"
    layers: Positive = 1
    dropout: Fraction = 0.1
    readout: Readout = "mean"

    def build(self, widths: Mapping[str, int], outputs: Mapping[str, int]) -> "nn.Module":
        """`crossing.CrossAttentionFusion` under heads."""
        from mmray.fusion import crossing
        from mmray.fusion.readouts import make_readout

        sizes = (self.hidden, self.layers, self.heads, self.dropout)
        fused = crossing.CrossAttentionFusion(
            widths, *sizes, readout=lambda width: make_readout(self.readout, width)
        )
        return _with_heads(fused, self.hidden, outputs)


class BottleneckFusion(AttendingSection, FusionKind):
    """Modalities exchange what they know through a few shared tokens (MBT)."""

    kind: Literal["bottleneck"]
    takes: ClassVar = "steps"
    layers: Positive = 2
    bottlenecks: Positive = 4
    dropout: Fraction = 0.1
    readout: Readout = "mean"

    def build(self, widths: Mapping[str, int], outputs: Mapping[str, int]) -> "nn.Module":
        """`crossing.BottleneckFusion` under heads."""
        from mmray.fusion import crossing
        from mmray.fusion.readouts import make_readout

        sizes = (self.hidden, self.layers, self.heads, self.bottlenecks, self.dropout)
        fused = crossing.BottleneckFusion(
            widths, *sizes, readout=lambda width: make_readout(self.readout, width)
        )
        return _with_heads(fused, self.hidden, outputs)
