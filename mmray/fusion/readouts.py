"""Steps [B, T, H], their mask and times [B, T] → one vector a row [B, H].

A readout is what turns an encoder of steps into an encoder of samples. A row without a real step gives
finite numbers of no meaning, without a gradient.

Shapes: B rows, T steps, H numbers a step.
"""

import math

import torch
from torch import Tensor, nn

from mmray.fusion.base import Readout
from mmray.fusion.steps import masked_mean, zero_padding

__all__ = ["AtZero", "Attention", "Last", "Mean", "make_readout"]


class Mean(nn.Module):
    """Mean over the real steps; zeros for a row without any."""

    def forward(self, h_BTH: Tensor, mask_BT: Tensor, times_BT: Tensor) -> Tensor:
        """[B, T, H] → [B, H]."""
        return masked_mean(h_BTH, mask_BT)


class Last(nn.Module):
    """The last real step; of the columns from `forwards` on, which a model ran backwards, the first."""

    def __init__(self, forwards: int):
        super().__init__()
        self.forwards = forwards

    def forward(self, h_BTH: Tensor, mask_BT: Tensor, times_BT: Tensor) -> Tensor:
        """[B, T, H] → [B, H]."""
        h_BTH = zero_padding(h_BTH, mask_BT)
        last_B = (mask_BT.sum(1) - 1).clamp(min=0)
        return torch.cat([_step(h_BTH, last_B)[:, : self.forwards], h_BTH[:, 0, self.forwards :]], dim=1)


class AtZero(nn.Module):
    """The step whose time is closest to 0 s, the earliest of equals.

    A row may bring context: steps before the sample at negative times, and after it. With a bidirectional
    LSTM over the utterances of a video, the utterance that is the sample at 0, this is bc-LSTM: Poria et al.
    2017, "Context-dependent sentiment analysis in user-generated videos".
    """

    def forward(self, h_BTH: Tensor, mask_BT: Tensor, times_BT: Tensor) -> Tensor:
        """[B, T, H] → [B, H]."""
        nearest_B = times_BT.abs().masked_fill(~mask_BT, torch.inf).argmin(1)
        return _step(zero_padding(h_BTH, mask_BT), nearest_B)


class Attention(nn.Module):
    """The mean over the real steps, weighted by a learned query.

        u_t = tanh(W h_t + b),   a = softmax over t of (q · u_t),   y = sum over t of a_t h_t

    Yang et al. 2016, "Hierarchical attention networks for document classification".
    """

    def __init__(self, width: int):
        super().__init__()
        self.key = nn.Linear(width, width)
        self.query = nn.Parameter(torch.randn(width) / math.sqrt(width))

    def forward(self, h_BTH: Tensor, mask_BT: Tensor, times_BT: Tensor) -> Tensor:
        """[B, T, H] → [B, H]."""
        h_BTH = zero_padding(h_BTH, mask_BT)
        scores_BT = self.key(h_BTH).tanh() @ self.query
        scores_BT = scores_BT.masked_fill(~mask_BT, torch.finfo(scores_BT.dtype).min)
        return (scores_BT.softmax(1)[..., None] * h_BTH).sum(1)


def _step(h_BTH: Tensor, index_B: Tensor) -> Tensor:
    """The step of each row at its index, [B, H]."""
    return h_BTH.gather(1, index_B[:, None, None].expand(-1, 1, h_BTH.shape[2])).squeeze(1)


def make_readout(kind: Readout, width: int, forwards: int | None = None) -> nn.Module:
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
