"""What a config says about a model → the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from mmray.fusion.encoder_kinds import MlpEncoder
from mmray.fusion.heads import Heads
from mmray.fusion.kinds import InputConfig, ModelConfig
from mmray.fusion.model import PADDING, UNKNOWN, FusionModel, Standardize

__all__ = ["ModalityShape", "build_model"]


@dataclass(frozen=True)
class ModalityShape:
    """What a modality brings at each step: a vector of `size` numbers, or a word index below `size`."""

    kind: Literal["vectors", "words"]
    size: int
    """Padding and unknown count as words."""
    components: int | None = None
    """Principal components its vectors are reduced to, where they are."""


def build_model(
    model: ModelConfig,
    modalities: Mapping[str, ModalityShape],
    outputs: Mapping[str, int],
    *,
    learned_weights: bool = False,
) -> FusionModel:
    """The model a config describes, for these modalities and {target: C}, freshly initialised.

    Raises:
        ConfigError: where a tensor fusion of these modalities would be too large.

    """
    inputs, encoders = {}, {}
    for name, shape in sorted(modalities.items()):
        inputs[name], width_in = _input(shape, model.inputs.get(name, InputConfig()), model.embedding)
        encoder = model.encoders.get(name, MlpEncoder(kind="mlp"))
        encoders[name] = encoder.build(width_in, by_step=model.fusion.takes == "steps")
    widths = {name: encoder.width for name, encoder in encoders.items()}
    fusion = model.fusion.build(widths, outputs)
    unimodal = None
    if model.unimodal_heads and len(modalities) > 1:
        unimodal = {name: Heads(width, outputs) for name, width in widths.items()}
    return FusionModel(
        inputs, encoders, fusion, outputs, model.modality_dropout, unimodal, learned_weights=learned_weights
    )


def _input(shape: ModalityShape, settings: InputConfig, embedding: int) -> tuple[nn.Module, int]:
    """What reads a modality's steps, and the width of what it gives."""
    if shape.kind == "vectors":
        return Standardize(shape.size, shape.components, settings.noise), shape.components or shape.size
    words = nn.Embedding(shape.size, embedding, padding_idx=PADDING)
    with torch.no_grad():
        words.weight[UNKNOWN] = 0.0  # neutral where training meets no unknown word
    return words, embedding
