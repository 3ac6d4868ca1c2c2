"""{modality: encoder} + fusion."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mmray.config.base import Fraction, Name, Positive, Section


class MlpEncoder(Section):
    """Mean over time, then layers."""

    kind: Literal["mlp"]
    hidden: Positive = 64
    layers: Positive = 1
    dropout: Fraction = 0.1


class RecurrentEncoder(Section):
    """GRU or LSTM over time; its last state."""

    kind: Literal["gru", "lstm"]
    hidden: Positive = 64
    layers: Positive = 1
    bidirectional: bool = False
    dropout: Fraction = 0.1
    center: bool = False
    """Subtract each sample's mean over time first: what changes, not how it looks."""


class TransformerEncoder(Section):
    """Self-attention over time; mean of the outputs."""

    kind: Literal["transformer"]
    hidden: Positive = 64
    layers: Positive = 1
    heads: Positive = 4
    dropout: Fraction = 0.1
    center: bool = False
    """Subtract each sample's mean over time first: what changes, not how it looks."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not divisible by heads {self.heads}")
        return self


Encoder = Annotated[MlpEncoder | RecurrentEncoder | TransformerEncoder, Field(discriminator="kind")]


class ConcatFusion(Section):
    """Feature-level: the modalities' vectors side by side, then a layer."""

    kind: Literal["concat"]
    hidden: Positive = 64
    dropout: Fraction = 0.1


class LateFusion(Section):
    """Decision-level: each modality predicts; the mean over the modalities present."""

    kind: Literal["late"]


Fusion = Annotated[ConcatFusion | LateFusion, Field(discriminator="kind")]


class ModelConfig(Section):
    """{modality: encoder} + fusion; the heads follow from `targets`."""

    encoders: dict[Name, Encoder] = {}
    """One a feature; default: `mlp` for each."""
    fusion: Fusion = ConcatFusion(kind="concat")
    embedding: Positive = 64
    """Width of the embedding learned for token features."""
    unimodal_heads: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the losses of heads on each modality's own vector, beside the fused ones; 0: none."""
    modality_dropout: Fraction = 0.0
    """Chance to hide a present modality from the model during training (never all of them)."""
