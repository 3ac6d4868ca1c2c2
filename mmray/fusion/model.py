"""{modality: encoder} + fusion + {target: head} as one module.

    inputs {m: [B, T_m, D_m] or [B, T_m] word indices}, lengths {m: [B]}
        │ standardise (vectors) or embed (words)
        │ encode each modality                       → {m: [B, H_m]}
        │ fuse what is present, apply the heads      → {target: [B, C]}

A length of 0 means absent, in the table, in the batch and here: hiding a modality, in training or to
measure what it contributes, is setting its lengths to 0. With nothing present the output is the prior:
what the train split says before anything is seen. It is set from counts like the standardisation, not
learned: no row without modalities is trained on.

With unimodal heads each modality's vector also predicts alone, as output `modality/target`: the prior where
it is absent, so that such a row teaches that head nothing. They are for the loss and for comparison; the
prediction is the fused output.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mmray import config
from mmray.fusion.encoders import Centred, PooledMLP, Recurrent, Transformer
from mmray.fusion.fusions import ConcatFusion, LateFusion
from mmray.fusion.heads import FusedHeads, Heads
from mmray.fusion.named import NamedModules

__all__ = ["PADDING", "UNKNOWN", "FusionModel", "ModalityShape", "Standardize", "build_model"]

PADDING, UNKNOWN = 0, 1
"""Word indices that are no word; the vocabulary starts after them."""


@dataclass(frozen=True)
class ModalityShape:
    """What a modality brings at each step: a vector of `size` numbers, or a word index below `size`."""

    kind: Literal["vectors", "words"]
    size: int
    """Padding and unknown count as words."""


class Standardize(nn.Module):
    """(x - mean) / std with the train split's mean and std, [D] each, kept in the state dict."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def set(self, mean_D: Tensor, std_D: Tensor) -> None:
        """Take the statistics, once, before training."""
        self.mean.copy_(mean_D)
        self.std.copy_(std_D)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] → [B, T, D]."""
        return (x_BTD - self.mean) / self.std


class FusionModel(nn.Module):
    """`inputs` (Standardize or Embedding) and `encoders` by modality, then `fusion` → {target: [B, C]}.

    `fusion` is called with {modality: [B, H_m]} (zeros where absent) and {modality: [B] bool}. `unimodal`
    are heads on each modality's vector. With `learned_weights` there is a log variance for each target's
    loss (`mmray.learn.losses`), which no output depends on.
    """

    def __init__(
        self,
        inputs: Mapping[str, nn.Module],
        encoders: Mapping[str, nn.Module],
        fusion: nn.Module,
        outputs: Mapping[str, int],
        modality_dropout: float = 0.0,
        unimodal: Mapping[str, Heads] | None = None,
        learned_weights: bool = False,
    ):
        super().__init__()
        self.inputs = NamedModules(inputs)
        self.encoders = NamedModules(encoders)
        self.fusion = fusion
        self.modality_dropout = modality_dropout
        self.unimodal = NamedModules(unimodal or {})
        self.learned_weights = sorted(outputs) if learned_weights else []
        for target, width in outputs.items():
            self.register_buffer(f"prior_{target}", torch.zeros(width))
        for target in self.learned_weights:
            self.register_parameter(f"log_variance_{target}", nn.Parameter(torch.zeros(())))

    @property
    def modalities(self) -> list[str]:
        """Names in the order everything here follows."""
        return self.encoders.names

    def set_statistics(
        self, features: Mapping[str, tuple[Tensor, Tensor]], priors: Mapping[str, Tensor]
    ) -> None:
        """Take from the train split {vector modality: (mean [D], std [D])} and {target: prior [C]}."""
        for name, (mean_D, std_D) in features.items():
            standardize = self.inputs[name]
            assert isinstance(standardize, Standardize), name
            standardize.set(mean_D, std_D)
        for target, prior_C in priors.items():
            self.get_buffer(f"prior_{target}").copy_(prior_C)

    def forward(self, inputs: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{m: [B, T, D] or [B, T]}, {m: [B] int64} → {target: [B, C]}, and {"m/target": [B, C]} of heads."""
        if self.training and self.modality_dropout:
            lengths = self._hide(lengths)
        present = {name: lengths[name] > 0 for name in self.modalities}
        vectors = {}
        for name in self.modalities:
            vector_BH = self.encoders[name](self.inputs[name](inputs[name]), lengths[name])
            vectors[name] = torch.where(present[name][:, None], vector_BH, 0.0)
        some = torch.stack(list(present.values())).any(0)
        outputs = self._or_prior(self.fusion(vectors, present), some)
        for name in self.unimodal.names:
            alone = self._or_prior(self.unimodal[name](vectors[name]), present[name])
            outputs |= {f"{name}/{target}": y_BC for target, y_BC in alone.items()}
        return outputs

    def _or_prior(self, outputs: Mapping[str, Tensor], seen_B: Tensor) -> dict[str, Tensor]:
        """{target: [B, C]}, the prior where nothing was seen."""
        return {
            target: torch.where(seen_B[:, None], y_BC, self.get_buffer(f"prior_{target}"))
            for target, y_BC in outputs.items()
        }

    def _hide(self, lengths: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Lengths with each present modality hidden at rate `modality_dropout`, never a row's last one.

        Of a row's present modalities the one with the highest draw always stays; it falls below the rate
        only when all of them do.
        """
        present_BM = torch.stack([lengths[name] > 0 for name in self.modalities], dim=1)
        draw_BM = torch.rand(present_BM.shape, device=present_BM.device)
        keep_BM = draw_BM >= self.modality_dropout
        highest_B1 = torch.where(present_BM, draw_BM, -1.0).argmax(1, keepdim=True)
        keep_BM = keep_BM.scatter(1, highest_B1, True)
        return {name: lengths[name] * keep_BM[:, m] for m, name in enumerate(self.modalities)}


def build_model(
    model: config.ModelConfig,
    modalities: Mapping[str, ModalityShape],
    outputs: Mapping[str, int],
    *,
    learned_weights: bool = False,
) -> FusionModel:
    """The model a config describes, for these modalities and {target: C}, freshly initialised."""
    inputs, encoders = {}, {}
    for name, shape in sorted(modalities.items()):
        inputs[name] = _input(shape, model.embedding)
        width_in = shape.size if shape.kind == "vectors" else model.embedding
        encoders[name] = _encoder(model.encoders.get(name, config.MlpEncoder(kind="mlp")), width_in)
    widths = {name: encoder.width for name, encoder in encoders.items()}
    if isinstance(model.fusion, config.ConcatFusion):
        concat = ConcatFusion(widths, model.fusion.hidden, model.fusion.dropout)
        fusion = FusedHeads(concat, Heads(model.fusion.hidden, outputs))
    else:
        fusion = LateFusion(widths, outputs)
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


def _encoder(encoder: config.Encoder, width_in: int) -> PooledMLP | Recurrent | Transformer | Centred:
    sizes = (width_in, encoder.hidden, encoder.layers, encoder.dropout)
    if isinstance(encoder, config.MlpEncoder):
        return PooledMLP(*sizes)
    if isinstance(encoder, config.RecurrentEncoder):
        built = Recurrent(*sizes, cell=encoder.kind, bidirectional=encoder.bidirectional)
    else:
        built = Transformer(*sizes, heads=encoder.heads)
    return Centred(built) if encoder.center else built
