"""Attention over steps some of which are not there: the block that fusions over steps are made of.

Shapes: B rows, S steps that ask, T steps that are asked, H width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AttentionBlock"]


class AttentionBlock(nn.Module):
    """Steps z [B, S, H] take from steps x [B, T, H] what they attend to, then a layer of their own.

        u = z + Attention(LN(z), LN(x)),   y = u + W_2 ReLU(W_1 LN'(u) + b_1) + b_2
        Attention(q, k): heads of softmax(Q q (K k)^T / sqrt(H / heads)) V k, side by side, through O

    Vaswani et al. 2017, "Attention is all you need", with LayerNorm before (Xiong et al. 2020) and one
    LayerNorm for both sides, as in the crossmodal block of Tsai et al. 2019; self-attention where x is z.
    Where no step of x is real, attention adds nothing.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads = heads
        self.rate = dropout
        self.norm = nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, z_BSH: Tensor, x_BTH: Tensor, mask_BT: Tensor) -> Tensor:
        """[B, S, H] and [B, T, H] with its mask → [B, S, H]; values must be finite, at padding too."""
        some_B111 = mask_BT.any(1)[:, None, None, None]
        z_norm, x_norm = self.norm(z_BSH), self.norm(x_BTH)
        attended = F.scaled_dot_product_attention(
            self._split(self.query(z_norm)),
            self._split(self.key(x_norm)),
            self._split(self.value(x_norm)),
            attn_mask=mask_BT[:, None, None, :] | ~some_B111,  # over no key at all the kernels disagree
            dropout_p=self.rate if self.training else 0.0,
        )
        attended_BSH = self.out(attended.transpose(1, 2).flatten(2))
        u_BSH = z_BSH + self.dropout(torch.where(some_B111[:, 0], attended_BSH, 0.0))
        return u_BSH + self.dropout(self.mlp(u_BSH))

    def _split(self, x_BTH: Tensor) -> Tensor:
        """[B, T, H] → [B, heads, T, H / heads]."""
        return x_BTH.unflatten(2, (self.heads, -1)).transpose(1, 2)
