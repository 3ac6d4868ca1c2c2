"""A vector a row [B, F] → one output a target {target: [B, C]}.

C is the number of classes (logits) or 1 (a number in units of the train split's standard deviation).
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mmray.fusion.named import NamedModules

__all__ = ["FusedHeads", "Heads"]


class Heads(nn.Module):
    """A linear layer for each target; `outputs` is {target: C}."""

    def __init__(self, width_in: int, outputs: Mapping[str, int]):
        super().__init__()
        self.targets = NamedModules({name: nn.Linear(width_in, width) for name, width in outputs.items()})

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
