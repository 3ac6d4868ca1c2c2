"""A vector a row [B, F] → one output a target {target: [B, C]}.

C is the number of classes (logits, also of a multilabel target), 1 (a number in units of the train split's
standard deviation), or the number of thresholds between ordered levels (logits of being above each).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmray.fusion.named import NamedModules

__all__ = ["FusedHeads", "Heads", "OrdinalHead", "Thresholds"]


class Thresholds(int):
    """The C of an ordinal output: how many thresholds lie between its levels, one less than levels.

    A number like any other C to a fusion; a target's `width` with a `head` brings its own head.
    """

    def head(self, width_in: int) -> nn.Module:
        """A head of as many thresholds."""
        return OrdinalHead(width_in, self)


class OrdinalHead(nn.Module):
    """One direction and ordered thresholds: the logits of P(level > k), falling in k for every row.

        logit P(level > k) = w · x + b_k,    b_0 free,  b_k = b_(k-1) - softplus(d_k)

    The proportional-odds model of McCullagh 1980, "Regression models for ordinal data"; trained by binary
    losses it is CORAL (Cao, Mirjalili, Raschka 2020, "Rank consistent ordinal regression for neural
    networks"). CORAL's biases are in order at the optimum; written as steps down they are so always.
    """

    def __init__(self, width_in: int, thresholds: int):
        super().__init__()
        self.direction = nn.Linear(width_in, 1, bias=False)
        # At first every level is as likely as the next.
        above_K = 1 - torch.arange(1, thresholds + 1) / (thresholds + 1)
        bias_K = above_K.logit()
        self.first = nn.Parameter(bias_K[:1].clone())
        self.steps = nn.Parameter((bias_K[:-1] - bias_K[1:]).expm1().log())

    def forward(self, x_BF: Tensor) -> Tensor:
        """[B, F] → [B, thresholds]."""
        down_K = torch.cat([self.first.new_zeros(1), F.softplus(self.steps).cumsum(0)])
        return self.direction(x_BF) + self.first - down_K


class Heads(nn.Module):
    """A linear layer for each target, or the head its C brings (`Thresholds`); `outputs` is {target: C}."""

    def __init__(self, width_in: int, outputs: Mapping[str, int]):
        super().__init__()
        self.targets = NamedModules(
            {
                name: width.head(width_in) if isinstance(width, Thresholds) else nn.Linear(width_in, width)
                for name, width in outputs.items()
            }
        )

    def forward(self, x_BF: Tensor) -> dict[str, Tensor]:
        """[B, F] → {target: [B, C]}."""
        return {name: self.targets[name](x_BF) for name in self.targets.names}


class FusedHeads(nn.Module):
    """A fusion that gives one vector a row, and the heads on top of it."""

    def __init__(self, fusion: nn.Module, heads: Heads):
        super().__init__()
        self.fusion = fusion
        self.takes = fusion.takes
        self.heads = heads

    def forward(self, *modalities: Mapping[str, Any]) -> dict[str, Tensor]:
        """What the fusion takes → {target: [B, C]}."""
        return self.heads(self.fusion(*modalities))
