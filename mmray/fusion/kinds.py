"""{feature: input + encoder} + fusion: the kinds there are, and a model's settings.

A new kind of encoder or fusion is a file with its settings, its `build` and its module, and a line in
`ENCODERS` or `FUSIONS`.
"""

from typing import TYPE_CHECKING, Annotated, Self, Union

from pydantic import Field, model_validator

from mmray.fusion.base import EncoderKind, FusionKind
from mmray.fusion.encoder_kinds import (
    ConvEncoder,
    IdentityEncoder,
    MlpEncoder,
    RecurrentEncoder,
    StretchEncoder,
    TransformerEncoder,
)
from mmray.fusion.fusion_kinds import (
    BottleneckFusion,
    ConcatFusion,
    CrossAttentionFusion,
    LateFusion,
    LowRankFusion,
    SequenceFusion,
    SpatialFusion,
    TensorFusion,
    WeightedFusion,
)
from mmray.settings import Fraction, Name, Positive, Section

__all__ = ["ENCODERS", "FUSIONS", "Encoder", "Fusion", "InputConfig", "ModelConfig"]

ENCODERS = (
    MlpEncoder,
    IdentityEncoder,
    RecurrentEncoder,
    TransformerEncoder,
    ConvEncoder,
    StretchEncoder,
)
FUSIONS = (
    ConcatFusion,
    LateFusion,
    WeightedFusion,
    TensorFusion,
    LowRankFusion,
    SequenceFusion,
    SpatialFusion,
    CrossAttentionFusion,
    BottleneckFusion,
)

if TYPE_CHECKING:
    Encoder = EncoderKind
    Fusion = FusionKind
else:
    Encoder = Annotated[Union[ENCODERS], Field(discriminator="kind")]  # noqa: UP007
    Fusion = Annotated[Union[FUSIONS], Field(discriminator="kind")]  # noqa: UP007


class InputConfig(Section):
    """What is done to the vectors of a feature before its encoder, beside standardising them."""

    reduce: Positive | Annotated[float, Field(gt=0, lt=1)] | None = None
    """Principal components of the train split's steps: how many, or the share of their variance to keep."""
    noise: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of the noise added in training, in standard deviations of the train split."""


class ModelConfig(Section):
    """{modality: encoder} + fusion."""

    inputs: dict[Name, InputConfig] = {}
    """Of features that are vectors."""
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

    @model_validator(mode="after")
    def _steps_for_the_fusion(self) -> Self:
        whole = [name for name, encoder in self.encoders.items() if not encoder.gives_steps]
        if self.fusion.takes == "steps" and whole:
            kinds = ", ".join(f"{name}: {self.encoders[name].kind}" for name in whole)
            raise ValueError(
                f"the fusion {self.fusion.kind} reads steps, these encoders give one vector ({kinds}); "
                "take other encoders, or a fusion over vectors (concat, late, weighted, tensor, low_rank)"
            )
        return self
