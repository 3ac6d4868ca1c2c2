"""Modalities that attend to each other's steps: every pair directly, or all through a bottleneck.

Shapes: B rows, T steps of a modality, N bottleneck tokens, H_m width of modality m, F width of a step.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from mmray.fusion.attention import AttentionBlock
from mmray.fusion.encoders import sinusoidal_positions
from mmray.fusion.fusions import ConcatFusion
from mmray.fusion.named import NamedModules
from mmray.fusion.steps import Steps, TypedLinear

__all__ = ["BottleneckFusion", "CrossAttentionFusion"]

MakeReadout = Callable[[int], nn.Module]
"""A readout for steps of this width."""


class CrossAttentionFusion(nn.Module):
    """Each modality attends to every other one, then to itself; what they read out, side by side → [B, F].

        z_m   = W_m h_m + b_m + positions
        z_mn  = blocks (z_m attends to z_n), for each other n; absent n: attention adds nothing
        s_m   = blocks of self-attention over [z_mn for each n]        (z_m itself where there is no other)
        y     = concat fusion of readout(LN(s_m)): a learned vector stands for an absent m

    MulT: Tsai et al. 2019, "Multimodal transformer for unaligned multimodal language sequences". Blocks are
    `mmray.fusion.attention.AttentionBlock`, `layers` of them for each pair and for each modality. For M
    modalities there are M (M - 1) pairs.
    """

    takes: Literal["steps"] = "steps"

    def __init__(
        self,
        widths: Mapping[str, int],
        hidden: int,
        layers: int = 1,
        heads: int = 4,
        dropout: float = 0.0,
        *,
        readout: MakeReadout,
    ):
        super().__init__()

        def blocks(width: int) -> nn.ModuleList:
            return nn.ModuleList(AttentionBlock(width, heads, dropout) for _ in range(layers))

        wide = hidden * max(len(widths) - 1, 1)
        self.project = _positioned(widths, hidden)
        self.pairs = NamedModules(
            {m: NamedModules({n: blocks(hidden) for n in widths if n != m}) for m in widths}
        )
        self.selves = NamedModules({name: blocks(wide) for name in widths})
        self.norms = NamedModules({name: nn.LayerNorm(wide) for name in widths})
        self.readouts = NamedModules({name: readout(wide) for name in widths})
        self.concat = ConcatFusion(dict.fromkeys(widths, wide), hidden, dropout)

    def forward(self, steps: Mapping[str, Steps]) -> Tensor:
        """{m: steps [B, T, H_m]} → [B, F]."""
        names = self.project.names
        z = {name: self.project[name](steps[name]) for name in names}
        vectors = {}
        for name in names:
            _, mask_BT, times_BT = steps[name]
            crossed = []
            for other in self.pairs[name].names:
                z_BTF = z[name]
                for block in self.pairs[name][other]:
                    z_BTF = block(z_BTF, z[other], steps[other].mask_BT)
                crossed.append(z_BTF)
            s_BTW = torch.cat(crossed, dim=2) if crossed else z[name]
            for block in self.selves[name]:
                s_BTW = block(s_BTW, s_BTW, mask_BT)
            vectors[name] = self.readouts[name](self.norms[name](s_BTW), mask_BT, times_BT)
        return self.concat(vectors, {name: steps[name].mask_BT.any(1) for name in names})


class BottleneckFusion(nn.Module):
    """Each modality attends to its own steps and to a few tokens that all share → [B, F].

        z_m        = W_m h_m + b_m + positions,   c: N learned tokens
        [z_m; c_m] = block_m([z_m; c]),           c = mean of c_m over the present m           (layers times)
        y          = mean over the present m of readout(LN(z_m));  0 where none is

    MBT: Nagrani et al. 2021, "Attention bottlenecks for multimodal fusion". Modalities exchange only what
    fits the tokens, at a cost linear in their number. The mean of what is read out is their mean of the
    modalities' logits, the heads being linear.
    """

    takes: Literal["steps"] = "steps"

    def __init__(
        self,
        widths: Mapping[str, int],
        hidden: int,
        layers: int = 1,
        heads: int = 4,
        bottlenecks: int = 4,
        dropout: float = 0.0,
        *,
        readout: MakeReadout,
    ):
        super().__init__()
        self.project = _positioned(widths, hidden)
        self.tokens = nn.Embedding(bottlenecks, hidden)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.blocks = NamedModules(
            {
                name: nn.ModuleList(AttentionBlock(hidden, heads, dropout) for _ in range(layers))
                for name in widths
            }
        )
        self.n_layers = layers
        self.norms = NamedModules({name: nn.LayerNorm(hidden) for name in widths})
        self.readouts = NamedModules({name: readout(hidden) for name in widths})

    def forward(self, steps: Mapping[str, Steps]) -> Tensor:
        """{m: steps [B, T, H_m]} → [B, F]."""
        names = self.project.names
        z = {name: self.project[name](steps[name]) for name in names}
        present = torch.stack([steps[name].mask_BT.any(1) for name in names])
        tokens_BNF = self.tokens.weight.expand(present.shape[1], -1, -1)
        for layer in range(self.n_layers):
            passed = []
            for name in names:
                both_BSF = torch.cat([z[name], tokens_BNF], dim=1)
                mask_BS = nn.functional.pad(steps[name].mask_BT, (0, tokens_BNF.shape[1]), value=True)
                both_BSF = self.blocks[name][layer](both_BSF, both_BSF, mask_BS)
                z[name], tokens_BMF = both_BSF.split([z[name].shape[1], tokens_BNF.shape[1]], dim=1)
                passed.append(tokens_BMF)
            tokens_BNF = _mean_of_present(torch.stack(passed), present)
        vectors = [
            self.readouts[name](self.norms[name](z[name]), steps[name].mask_BT, steps[name].times_BT)
            for name in names
        ]
        return _mean_of_present(torch.stack(vectors), present)


def _mean_of_present(x: Tensor, present_MB: Tensor) -> Tensor:
    """[M, B, …] → [B, …]: the mean over the modalities a row has; 0 where it has none."""
    mask = present_MB.view(*present_MB.shape, *[1] * (x.ndim - 2))
    return torch.where(mask, x, 0.0).sum(0) / mask.sum(0).clamp(min=1)


def _positioned(widths: Mapping[str, int], hidden: int) -> NamedModules["_Positioned"]:
    return NamedModules({name: _Positioned(width, hidden) for name, width in widths.items()})


class _Positioned(nn.Module):
    """Steps in the shared width, with sinusoidal positions: [B, T, H_m] → [B, T, F]."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.project = TypedLinear(width, hidden)

    def forward(self, steps: Steps) -> Tensor:
        z_BTF = self.project(steps)
        return z_BTF + sinusoidal_positions(z_BTF.shape[1], z_BTF.shape[2]).to(z_BTF)
