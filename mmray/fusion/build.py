"""What a config says about a model → the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from mmray import config
from mmray.fusion.crossing import BottleneckFusion, CrossAttentionFusion
from mmray.fusion.encoders import Centred, Conv, Encoder, Identity, PooledMLP, Recurrent, Transformer
from mmray.fusion.fusions import ConcatFusion, LateFusion, LowRankFusion, TensorFusion, WeightedFusion
from mmray.fusion.grid import SpatialFusion
from mmray.fusion.heads import FusedHeads, Heads
from mmray.fusion.model import PADDING, UNKNOWN, FusionModel, Standardize
from mmray.fusion.readouts import Attention, AtZero, Last, Mean
from mmray.fusion.sequence import SequenceFusion

__all__ = ["ModalityShape", "build_model"]

StepFusion = (
    config.SequenceFusion | config.SpatialFusion | config.CrossAttentionFusion | config.BottleneckFusion
)


@dataclass(frozen=True)
class ModalityShape:
    """What a modality brings at each step: a vector of `size` numbers, or a word index below `size`."""

    kind: Literal["vectors", "words"]
    size: int
    """Padding and unknown count as words."""


def build_model(
    model: config.ModelConfig,
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
        inputs[name] = _input(shape, model.embedding)
        width_in = shape.size if shape.kind == "vectors" else model.embedding
        encoder = model.encoders.get(name, config.MlpEncoder(kind="mlp"))
        encoders[name] = _encoder(encoder, width_in, by_step=isinstance(model.fusion, StepFusion))
    widths = {name: encoder.width for name, encoder in encoders.items()}
    if isinstance(model.fusion, config.LateFusion):
        fusion = LateFusion(widths, outputs)
    else:
        fused, width = _fusion(model.fusion, widths)
        fusion = FusedHeads(fused, Heads(width, outputs))
    unimodal = None
    if model.unimodal_heads and len(modalities) > 1:
        unimodal = {name: Heads(width, outputs) for name, width in widths.items()}
    return FusionModel(
        inputs, encoders, fusion, outputs, model.modality_dropout, unimodal, learned_weights=learned_weights
    )


def _input(shape: ModalityShape, embedding: int) -> nn.Module:
    if shape.kind == "vectors":
        return Standardize(shape.size)
    words = nn.Embedding(shape.size, embedding, padding_idx=PADDING)
    with torch.no_grad():
        words.weight[UNKNOWN] = 0.0  # neutral where training meets no unknown word
    return words


def _encoder(encoder: config.Encoder, width_in: int, *, by_step: bool) -> Encoder:
    """Read by step, an encoder has no readout of its own."""
    if isinstance(encoder, config.MlpEncoder):
        return PooledMLP(width_in, encoder.hidden, encoder.layers, encoder.dropout)
    if isinstance(encoder, config.IdentityEncoder):
        return Identity(width_in, readout=None if by_step else _readout(encoder.readout, width_in))
    both_ways = isinstance(encoder, config.RecurrentEncoder) and encoder.bidirectional
    width = encoder.hidden * (2 if both_ways else 1)
    readout = None if by_step else _readout(encoder.readout, width, encoder.hidden)
    sizes = (width_in, encoder.hidden, encoder.layers, encoder.dropout)
    if isinstance(encoder, config.RecurrentEncoder):
        built = Recurrent(*sizes, cell=encoder.kind, bidirectional=both_ways, readout=readout)
    elif isinstance(encoder, config.TransformerEncoder):
        built = Transformer(*sizes, heads=encoder.heads, readout=readout)
    else:
        built = Conv(*sizes, kernel=encoder.kernel, readout=readout)
    return Centred(built) if encoder.center else built


def _fusion(fusion: config.Fusion, widths: Mapping[str, int]) -> tuple[nn.Module, int]:
    """The fusion and the width of its vector."""
    match fusion:
        case config.ConcatFusion():
            return ConcatFusion(widths, fusion.hidden, fusion.dropout), fusion.hidden
        case config.WeightedFusion():
            return WeightedFusion(widths, fusion.hidden, fusion.dropout), fusion.hidden
        case config.TensorFusion():
            return TensorFusion(widths, fusion.hidden, fusion.dropout), fusion.hidden
        case config.LowRankFusion():
            return LowRankFusion(widths, fusion.hidden, fusion.rank, fusion.dropout), fusion.hidden
        case config.SequenceFusion():
            model = _sequence_model(fusion)
            return SequenceFusion(widths, fusion.hidden, model), model.width
        case config.SpatialFusion():
            sizes = (fusion.hidden, fusion.cells, fusion.layers, fusion.dropout)
            return SpatialFusion(widths, *sizes), fusion.hidden
        case config.CrossAttentionFusion():
            sizes = (fusion.hidden, fusion.layers, fusion.heads, fusion.dropout)
            crossed = CrossAttentionFusion(widths, *sizes, readout=lambda w: _readout(fusion.readout, w))
            return crossed, fusion.hidden
        case config.BottleneckFusion():
            sizes = (fusion.hidden, fusion.layers, fusion.heads, fusion.bottlenecks, fusion.dropout)
            shared = BottleneckFusion(widths, *sizes, readout=lambda w: _readout(fusion.readout, w))
            return shared, fusion.hidden
    raise TypeError(f"no fusion for {fusion}")


def _sequence_model(fusion: config.SequenceFusion) -> Recurrent | Transformer:
    sizes = (fusion.hidden, fusion.hidden, fusion.layers, fusion.dropout)
    if fusion.cell == "transformer":
        return Transformer(*sizes, heads=fusion.heads, readout=_readout(fusion.readout, fusion.hidden))
    width = fusion.hidden * (2 if fusion.bidirectional else 1)
    readout = _readout(fusion.readout, width, fusion.hidden)
    return Recurrent(*sizes, cell=fusion.cell, bidirectional=fusion.bidirectional, readout=readout)


def _readout(kind: config.Readout, width: int, forwards: int | None = None) -> nn.Module:
    """Of steps of this width, the columns from `forwards` on from a model that ran backwards."""
    match kind:
        case "mean":
            return Mean()
        case "last":
            return Last(forwards or width)
        case "attention":
            return Attention(width)
        case "at_zero":
            return AtZero()
