"""{modality: encoder} + fusion."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from mmray.settings import Fraction, Name, Positive, Section

Readout = Literal["last", "mean", "attention", "at_zero"]
"""Steps over time to one vector: the last; their mean; a mean with learned weights; the one nearest 0 s,
for features that bring context from before and after the sample."""


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError("must be odd, so that it has a middle")
    return kernel


def _require_heads_divide(hidden: int, heads: int) -> None:
    if hidden % heads:
        raise ValueError(f"hidden {hidden} is not divisible by heads {heads}")


class _Attending(Section):
    """Attention of several heads, each of an equal part of `hidden`."""

    hidden: Positive = 64
    heads: Positive = 4

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        _require_heads_divide(self.hidden, self.heads)
        return self


class MlpEncoder(Section):
    """Mean over time, then layers (for a fusion over steps: the layers on each step)."""

    kind: Literal["mlp"]
    hidden: Positive = 64
    layers: Positive = 1
    dropout: Fraction = 0.1


class IdentityEncoder(Section):
    """The vectors as they are."""

    kind: Literal["identity"]
    readout: Readout = "mean"


class RecurrentEncoder(Section):
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


class TransformerEncoder(_Attending):
    """Self-attention over time."""

    kind: Literal["transformer"]
    layers: Positive = 1
    dropout: Fraction = 0.1
    center: bool = False
    """Subtract each sample's mean over time first: what changes, not how it looks."""
    readout: Readout = "mean"


class ConvEncoder(Section):
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


Encoder = Annotated[
    MlpEncoder | IdentityEncoder | RecurrentEncoder | TransformerEncoder | ConvEncoder,
    Field(discriminator="kind"),
]


class ConcatFusion(Section):
    """Feature-level: the modalities' vectors side by side, then a layer."""

    kind: Literal["concat"]
    hidden: Positive = 64
    dropout: Fraction = 0.1


class LateFusion(Section):
    """Decision-level: each modality predicts; the mean over the modalities present."""

    kind: Literal["late"]


class WeightedFusion(Section):
    """Gates weigh the modalities' vectors against each other, unit by unit (GMU)."""

    kind: Literal["weighted"]
    hidden: Positive = 64
    dropout: Fraction = 0.1


class TensorFusion(Section):
    """All products of the modalities' units, then a layer (TFN); its size is a product of widths."""

    kind: Literal["tensor"]
    hidden: Positive = 64
    dropout: Fraction = 0.1


class LowRankFusion(Section):
    """The tensor fusion with weights of low rank (LMF)."""

    kind: Literal["low_rank"]
    hidden: Positive = 64
    rank: Positive = 4
    dropout: Fraction = 0.1


class SequenceFusion(Section):
    """The steps of all modalities merged in the order of time, then a sequence model."""

    kind: Literal["sequence"]
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
            _require_heads_divide(self.hidden, self.heads)
        return self


class SpatialFusion(Section):
    """Steps of all modalities averaged into the cells of one time grid, then mixed across all cells."""

    kind: Literal["spatial"]
    cells: Positive = 16
    hidden: Positive = 64
    layers: Positive = 2
    dropout: Fraction = 0.1


class CrossAttentionFusion(_Attending):
    """Each modality's steps attend to those of each other modality (MulT)."""

    kind: Literal["cross_attention"]
    layers: Positive = 1
    dropout: Fraction = 0.1
    readout: Readout = "mean"


class BottleneckFusion(_Attending):
    """Modalities exchange what they know through a few shared tokens (MBT)."""

    kind: Literal["bottleneck"]
    layers: Positive = 2
    bottlenecks: Positive = 4
    dropout: Fraction = 0.1
    readout: Readout = "mean"


Fusion = Annotated[
    ConcatFusion
    | LateFusion
    | WeightedFusion
    | TensorFusion
    | LowRankFusion
    | SequenceFusion
    | SpatialFusion
    | CrossAttentionFusion
    | BottleneckFusion,
    Field(discriminator="kind"),
]


class ModelConfig(Section):
    """{modality: encoder} + fusion; the heads follow from `targets`."""

    encoders: dict[Name, Encoder] = {}
    """One a feature; default: `mlp` for each. Fusions over steps (sequence, spatial, cross_attention,
    bottleneck) take the encoders' steps, and read out by their own `readout`."""
    fusion: Fusion = ConcatFusion(kind="concat")
    embedding: Positive = 64
    """Width of the embedding learned for token features."""
    unimodal_heads: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the losses of heads on each modality's own vector, beside the fused ones; 0: none."""
    modality_dropout: Fraction = 0.0
    """Chance to hide a present modality from the model during training (never all of them)."""
