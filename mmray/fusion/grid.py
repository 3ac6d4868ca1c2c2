"""Modalities on one grid over time: the same cells for all, mixed across cells and modalities.

Shapes: B rows, M modalities, T steps of a modality, G cells, H_m width of modality m, F width of a cell.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmray.fusion.named import NamedModules
from mmray.fusion.steps import Steps, TypedLinear, masked_mean, zero_padding

__all__ = ["SpatialFusion", "cell_means", "cells_of"]


class SpatialFusion(nn.Module):
    """Each modality averaged into the cells of one time grid; cells of all modalities mixed → [B, F].

        u_mg = W_m (mean of the h_mt whose time is in cell g) + b_m;  0 and masked where there is none
        u    = u + mix over all M x G cells (LN u);   u = u + mix over all F units (LN' u)    (layers times)
        y    = mean of LN(u) over the cells that hold steps

    A row's grid covers its own time, from the first step of any modality to the last. Mixing is that of
    Tolstikhin et al. 2021, "MLP-Mixer" (two linear layers with GELU between); tokens of several modalities
    in one space are Liang et al. 2023, "High-modality multimodal transformer". Patches of an image are
    steps like any other. Empty cells, also those of an absent modality, put nothing into a mix.
    """

    takes: Literal["steps"] = "steps"

    def __init__(
        self, widths: Mapping[str, int], hidden: int, cells: int, layers: int = 1, dropout: float = 0.0
    ):
        super().__init__()
        self.cells = cells
        self.project = NamedModules({name: TypedLinear(width, hidden) for name, width in widths.items()})
        self.layers = nn.ModuleList(_MixerLayer(len(widths) * cells, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, steps: Mapping[str, Steps]) -> Tensor:
        """{m: steps [B, T, H_m]} → [B, F]."""
        names = self.project.names
        cells = cells_of([steps[name] for name in names], self.cells)
        grids = [cell_means(steps[name], cell, self.cells) for name, cell in zip(names, cells, strict=True)]
        tokens_BKF = torch.cat(
            [self.project[name](grid) for name, grid in zip(names, grids, strict=True)], dim=1
        )
        mask_BK = torch.cat([grid.mask_BT for grid in grids], dim=1)
        tokens_BKF = zero_padding(tokens_BKF, mask_BK)
        for layer in self.layers:
            tokens_BKF = layer(tokens_BKF, mask_BK)
        return masked_mean(self.norm(tokens_BKF), mask_BK)


class _MixerLayer(nn.Module):
    """Mixing across K cells, then across F units: [B, K, F] → [B, K, F], what is masked stays 0."""

    def __init__(self, cells: int, width: int, dropout: float):
        super().__init__()
        self.cell_norm, self.unit_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across_cells, self.across_units = _mlp(cells, dropout), _mlp(width, dropout)

    def forward(self, x_BKF: Tensor, mask_BK: Tensor) -> Tensor:
        seen_BFK = zero_padding(self.cell_norm(x_BKF), mask_BK).transpose(1, 2)
        x_BKF = x_BKF + self.across_cells(seen_BFK).transpose(1, 2)
        return zero_padding(x_BKF + self.across_units(self.unit_norm(x_BKF)), mask_BK)


def _mlp(width: int, dropout: float) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.Dropout(dropout))


def cells_of(steps: list[Steps], cells: int) -> list[Tensor]:
    """The cell of each step, [B, T] int64 in 0 … cells - 1, on a grid of equal cells that covers a row.

    cell = floor(cells (t - first) / (last - first)), the last time in the last cell, where `first` and
    `last` are over the real steps of all modalities; 0 where they are equal, and at padding.
    """
    mask_BS = torch.cat([part.mask_BT for part in steps], dim=1)
    times_BS = torch.cat([part.times_BT for part in steps], dim=1)
    first_B1 = times_BS.masked_fill(~mask_BS, torch.inf).amin(1, keepdim=True)
    last_B1 = times_BS.masked_fill(~mask_BS, -torch.inf).amax(1, keepdim=True)
    span_B1 = torch.where(last_B1 > first_B1, last_B1 - first_B1, 1.0)
    return [
        torch.where(part.mask_BT, cells * (part.times_BT - first_B1) / span_B1, 0.0)
        .long()
        .clamp(max=cells - 1)
        for part in steps
    ]


def cell_means(steps: Steps, cell_BT: Tensor, cells: int) -> Steps:
    """Mean of the steps in each cell, [B, G, H]; cells without a step are 0 and masked; times are cells."""
    one_hot_BTG = F.one_hot(cell_BT, cells) * steps.mask_BT[..., None]
    counts_BG = one_hot_BTG.sum(1)
    values_BTH = zero_padding(steps.values_BTH, steps.mask_BT)
    sums_BGH = one_hot_BTG.transpose(1, 2).to(values_BTH.dtype) @ values_BTH
    times_BG = torch.arange(cells, device=cell_BT.device).float().expand(len(cell_BT), -1)
    return Steps(sums_BGH / counts_BG.clamp(min=1)[..., None], counts_BG > 0, times_BG)
