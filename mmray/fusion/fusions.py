"""Vectors of several modalities and which of them are present → one vector, or outputs directly.

A fusion is called with `vectors` {modality: [B, H_m]} and `present` {modality: [B] bool}. What stands in the
vector of an absent modality never changes the result, and every parameter takes part in every step,
whatever is absent: DDP needs no search for unused parameters. Fusions that see time are in `sequence`,
`grid` and `crossing`; `takes` says which of the two a fusion is called with.

    concat     side by side, then a layer                      absent: a learned vector
    late       each predicts, mean of the outputs              absent: not counted
    weighted   gates choose between them, unit by unit         absent: gate 0, the others' renormalised
    tensor     all their products, then a layer                absent: only the others' products
    low_rank   the same layer, its weights factorised          absent: only the others' products

Shapes: B rows, M modalities, H_m width of modality m, F width of the fused vector, C outputs of a target.
"""

import functools
import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from mmray.errors import ConfigError
from mmray.fusion.heads import Heads
from mmray.fusion.named import NamedModules

__all__ = ["ConcatFusion", "LateFusion", "LowRankFusion", "TensorFusion", "WeightedFusion"]

MAX_TENSOR_WEIGHTS = 2**25
"""Of `TensorFusion`'s layer: 134 MB, four times that with its gradient and Adam's moments."""


class ConcatFusion(nn.Module):
    """Feature-level fusion: the vectors side by side, then one layer → [B, F].

        z_m = h_m where m is present, else a_m (learned)
        y   = Dropout(ReLU(W [z_1; …; z_M] + b))

    Ngiam et al. 2011, "Multimodal deep learning"; "early fusion" in Baltrušaitis et al. 2019, "Multimodal
    machine learning: a survey and taxonomy".
    """

    takes: Literal["vectors"] = "vectors"

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

    takes: Literal["vectors"] = "vectors"

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


class WeightedFusion(nn.Module):
    """Gates that see every modality weigh them against each other, unit by unit → [B, F].

        x_m = h_m where m is present, else 0
        v_m = tanh(W_m x_m + b_m)
        g   = softmax over the present m of (U_m [x_1; …; x_M] + c_m), each of F units by itself
        y   = Dropout(sum over the present m of g_m ⊙ v_m);  0 where none is

    The gated multimodal unit: Arevalo et al. 2017, "Gated multimodal units for information fusion". For two
    modalities it is theirs (g_1 = σ(a), g_2 = 1 - g_1, with a = U_1 x - U_2 x); for more, where they leave
    sigmoids that need not add up, a softmax, so that weights can be renormalised over what is present.
    """

    takes: Literal["vectors"] = "vectors"

    def __init__(self, widths: Mapping[str, int], hidden: int, dropout: float = 0.0):
        super().__init__()
        total = sum(widths.values())
        self.values = NamedModules({name: nn.Linear(width, hidden) for name, width in widths.items()})
        self.gates = NamedModules({name: nn.Linear(total, hidden) for name in widths})
        self.dropout = nn.Dropout(dropout)

    def forward(self, vectors: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """{m: [B, H_m]} → [B, F]."""
        x = _zero_absent(vectors, present)
        names = self.values.names
        everything = torch.cat([x[name] for name in names], dim=1)
        values_MBF = torch.stack([self.values[name](x[name]).tanh() for name in names])
        scores_MBF = torch.stack([self.gates[name](everything) for name in names])
        mask_MB1 = torch.stack([present[name] for name in names])[..., None]
        scores_MBF = scores_MBF.masked_fill(~mask_MB1, torch.finfo(scores_MBF.dtype).min)
        return self.dropout(torch.where(mask_MB1, scores_MBF.softmax(0) * values_MBF, 0.0).sum(0))


class TensorFusion(nn.Module):
    """Every product of a unit of each modality, then one layer → [B, F].

        z = [h_1; 1] ⊗ … ⊗ [h_M; 1],   h_m = 0 where m is absent
        y = Dropout(ReLU(W z + b))

    Tensor fusion network: Zadeh et al. 2017, "Tensor fusion network for multimodal sentiment analysis". The
    ones keep the products of fewer modalities, down to each alone, in z; with m absent those without m
    are what remains.

    Raises:
        ConfigError: where W would hold more than `MAX_TENSOR_WEIGHTS` numbers.

    """

    takes: Literal["vectors"] = "vectors"

    def __init__(self, widths: Mapping[str, int], hidden: int, dropout: float = 0.0):
        super().__init__()
        self.names = sorted(widths)
        size = math.prod(width + 1 for width in widths.values())
        if size * hidden > MAX_TENSOR_WEIGHTS:
            product = " x ".join(f"({widths[name]} + 1)" for name in self.names)
            fault = (
                f"the tensor of {', '.join(self.names)} has {product} = {size:,} numbers, which makes "
                f"{size:,} x hidden {hidden} = {size * hidden:,} weights, more than {MAX_TENSOR_WEIGHTS:,}: "
                "take kind: low_rank, or a smaller hidden in the encoders"
            )
            raise ConfigError("the model", [("model.fusion", fault)])
        self.linear = nn.Linear(size, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, vectors: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """{m: [B, H_m]} → [B, F]."""
        x = _zero_absent(vectors, present)
        z_BP = _with_one(x[self.names[0]])
        for name in self.names[1:]:
            z_BP = (z_BP[:, :, None] * _with_one(x[name])[:, None, :]).flatten(1)
        return self.dropout(self.linear(z_BP).relu())


class LowRankFusion(nn.Module):
    """Tensor fusion whose weights have rank `rank`, without ever making the tensor → [B, F].

        y = Dropout(ReLU(sum over i of (W_1i [h_1; 1]) ⊙ … ⊙ (W_Mi [h_M; 1]) + b)),   h_m = 0 where absent

    Liu et al. 2018, "Efficient low-rank multimodal fusion with modality-specific factors": `TensorFusion`
    with row f of its W equal to the sum over i of W_1i[f] ⊗ … ⊗ W_Mi[f]. The factors start so that each
    product, also one with an absent modality, where only the weights of the 1 count, has a variance near 1.
    """

    takes: Literal["vectors"] = "vectors"

    def __init__(self, widths: Mapping[str, int], hidden: int, rank: int = 4, dropout: float = 0.0):
        super().__init__()
        scale = rank ** (-0.5 / len(widths))  # the sum of `rank` products is as large as one of rank 1
        self.factors = NamedModules(
            {name: _Factor(width, hidden, rank, scale) for name, width in widths.items()}
        )
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.dropout = nn.Dropout(dropout)

    def forward(self, vectors: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """{m: [B, H_m]} → [B, F]."""
        x = _zero_absent(vectors, present)
        product_RBF = functools.reduce(torch.mul, (self.factors[m](x[m]) for m in self.factors.names))
        return self.dropout((product_RBF.sum(0) + self.bias).relu())


class _Factor(nn.Module):
    """One modality's factors W_i [R, F, H + 1], applied to [h; 1]: [B, H] → [R, B, F]."""

    def __init__(self, width: int, hidden: int, rank: int, scale: float):
        super().__init__()
        self.weight = nn.Parameter(scale * torch.randn(rank, hidden, width + 1))
        with torch.no_grad():
            self.weight[:, :, :width] /= math.sqrt(width)

    def forward(self, h_BH: Tensor) -> Tensor:
        return torch.einsum("bh,rfh->rbf", _with_one(h_BH), self.weight)


class _Constant(nn.Module):
    """A learned vector, [width]."""

    def __init__(self, width: int):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(width))

    def forward(self) -> Tensor:
        return self.value


def _zero_absent(vectors: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.where(present[name][:, None], vector, 0.0) for name, vector in vectors.items()}


def _with_one(h_BH: Tensor) -> Tensor:
    """[h; 1]."""
    return torch.cat([h_BH, torch.ones_like(h_BH[:, :1])], dim=1)
