"""Vectors of several modalities and which of them are present → one vector, or outputs directly.

A fusion is called with `vectors` {modality: [B, H_m]} and `present` {modality: [B] bool}, both in sorted
order of the names. What stands in the vector of an absent modality never changes the result, and every
parameter takes part in every step, whatever is absent: DDP needs no search for unused parameters.

Shapes: B rows, M modalities, H_m width of modality m, F width of the fused vector, C outputs of a target.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmray.fusion.heads import Heads
from mmray.fusion.named import NamedModules

__all__ = ["ConcatFusion", "LateFusion"]


class ConcatFusion(nn.Module):
    """Feature-level fusion: the vectors side by side, then one layer → [B, F].

        z_m = h_m where m is present, else a_m (learned)
        y   = Dropout(ReLU(W [z_1; …; z_M] + b))

    Ngiam et al. 2011, "Multimodal deep learning"; "early fusion" in Baltrušaitis et al. 2019, "Multimodal
    machine learning: a survey and taxonomy".
    """

    def __init__(self, widths: Mapping[str, int], hidden: int, dropout: float = 0.0):
        super().__init__()
        self.absent = NamedModules({name: _Constant(width) for name, width in widths.items()})
        self.linear = nn.Linear(sum(widths.values()), hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, vectors: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """{m: [B, H_m]} → [B, F]."""
        parts = [
            torch.where(present[name][:, None], vectors[name], self.absent[name]())
            for name in self.absent.names
        ]
        return self.dropout(self.linear(torch.cat(parts, dim=1)).relu())


class LateFusion(nn.Module):
    """Decision-level fusion: each modality predicts, the outputs are averaged → {target: [B, C]}.

        y = sum over present m of (W_m h_m + b_m) / number of present m;  0 where none is

    For classes this averages logits: the normalised product rule of Kittler et al. 1998, "On combining
    classifiers", with equal weights (softmax of the mean logit ∝ the geometric mean of the probabilities).
    """

    def __init__(self, widths: Mapping[str, int], outputs: Mapping[str, int]):
        super().__init__()
        self.targets = sorted(outputs)
        self.heads = NamedModules({name: Heads(width, outputs) for name, width in widths.items()})

    def forward(self, vectors: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{m: [B, H_m]} → {target: [B, C]}."""
        names = self.heads.names
        single = [self.heads[name](vectors[name]) for name in names]
        mask_MB1 = torch.stack([present[name] for name in names])[..., None]
        count_B1 = mask_MB1.sum(0).clamp(min=1)
        return {
            target: torch.where(mask_MB1, torch.stack([y[target] for y in single]), 0.0).sum(0) / count_B1
            for target in self.targets
        }


class _Constant(nn.Module):
    """A learned vector, [width]."""

    def __init__(self, width: int):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(width))

    def forward(self) -> Tensor:
        return self.value
