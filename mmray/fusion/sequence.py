"""The steps of all modalities as one sequence, in the order of time.

Shapes: B rows, T steps of a modality, S steps of all of them, H_m width of modality m, F of the sequence.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from mmray.fusion.encoders import Recurrent, Transformer
from mmray.fusion.named import NamedModules
from mmray.fusion.steps import Steps, TypedLinear

__all__ = ["SequenceFusion", "merge"]


class SequenceFusion(nn.Module):
    """Steps merged by their times, then a sequence model over them → [B, width of `model`].

        u_mt = W_m h_mt + e_m          (e_m: learned, tells the modalities apart)
        y    = model(u_mt in the order of (time, name of m, t))

    With an LSTM this is early fusion as EF-LSTM has it (Williams et al. 2018, "DNN multimodal fusion
    techniques for predicting video sentiment"), without its need for modalities aligned step by step: an
    event of one modality stands beside what happened in the others at that time. With a Transformer it is
    self-attention over the tokens of all modalities, as in Sun et al. 2019, "VideoBERT". An absent modality
    has no steps in the sequence.

    `model` is an encoder of width-`hidden` steps.
    """

    takes: Literal["steps"] = "steps"

    def __init__(self, widths: Mapping[str, int], hidden: int, model: Recurrent | Transformer):
        super().__init__()
        self.project = NamedModules({name: TypedLinear(width, hidden) for name, width in widths.items()})
        self.model = model

    def forward(self, steps: Mapping[str, Steps]) -> Tensor:
        """{m: steps [B, T, H_m]} → [B, width of `model`]."""
        projected = [
            steps[name]._replace(values_BTH=self.project[name](steps[name])) for name in self.project.names
        ]
        merged = merge(projected)
        return self.model(merged.values_BTH, merged.mask_BT.sum(1), merged.times_BT)


def merge(steps: list[Steps]) -> Steps:
    """All steps of each row in the order of time; of equal times, the earlier in the list first."""
    values_BSF = torch.cat([part.values_BTH for part in steps], dim=1)
    mask_BS = torch.cat([part.mask_BT for part in steps], dim=1)
    times_BS = torch.cat([part.times_BT for part in steps], dim=1)
    times_BS, order_BS = times_BS.masked_fill(~mask_BS, torch.inf).sort(dim=1, stable=True)
    values_BSF = values_BSF.gather(1, order_BS[..., None].expand_as(values_BSF))
    return Steps(values_BSF, mask_BS.gather(1, order_BS), times_BS)
