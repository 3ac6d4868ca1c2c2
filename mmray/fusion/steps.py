"""The steps of one modality, which of them are real, and when they are.

Padding may hold anything, NaN included: whatever reads steps puts `zero_padding` before the first sum, so
that neither a value nor a gradient gets through.

Shapes: B rows, T steps, H numbers a step, F numbers a step in a space that modalities share.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Steps", "TypedLinear", "masked_mean", "step_mask", "zero_padding"]


class Steps(NamedTuple):
    """Vectors of one modality over time; a row without a real step does not have the modality."""

    values_BTH: Tensor
    mask_BT: Tensor
    """bool: True where a step is real; real steps come first."""
    times_BT: Tensor
    """Seconds from the start of the sample, float32."""


def step_mask(lengths_B: Tensor, steps: int) -> Tensor:
    """[B, T] bool: True where a step is real."""
    return torch.arange(steps, device=lengths_B.device) < lengths_B[:, None]


def zero_padding(x_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    """`x_BTH` with padding set to 0; a multiplication would keep NaN."""
    return torch.where(mask_BT[..., None], x_BTH, 0.0)


def masked_mean(x_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the real steps, [B, H]; zeros for a row without any."""
    return zero_padding(x_BTH, mask_BT).sum(1) / mask_BT.sum(1).clamp(min=1)[:, None]


class TypedLinear(nn.Module):
    """Steps of one modality in a space that modalities share: W h + b, [B, T, H_m] → [B, T, F].

    The bias is the modality's embedding: what tells it from the others. Padding comes out finite.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.linear = nn.Linear(width, hidden)
        nn.init.normal_(self.linear.bias)

    def forward(self, steps: Steps) -> Tensor:
        """[B, T, H_m] → [B, T, F]."""
        return self.linear(zero_padding(steps.values_BTH, steps.mask_BT))
