"""Losses of a batch, in parts → one step of AdamW: mixed precision, clipping, learning rates over time.

The learning rate is a closed form of the step's number, so there is no scheduler state to save or to lose:

    rate = base · rise · fall;  rise = min(1, (t + 1) / w)
    fall = 1 (constant), 1 - p (linear) or (1 + cos πp) / 2 (cosine);  p = max(0, t - w) / (T - w)

for step t of T, the first w of which are warm-up (Goyal et al. 2017, "Accurate, large minibatch SGD", for
the rise; Loshchilov & Hutter 2017, "SGDR", for the cosine). AdamW: Loshchilov & Hutter 2019.

float16 multiplies the loss with a scale; a step that overflows is skipped and halves it (Micikevicius et al.
2018, "Mixed precision training"). Where every step does, it is the loss itself that is not finite.
"""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from mmray.errors import PlanError
from mmray.training.transfer import parameters_of

__all__ = ["Optimization", "rate_factor"]

MAX_SKIPPED = 24
"""Steps in a row that float16 may skip: halved so often its scale, 2^16 at first, is below 1/100."""


def rate_factor(step: int, steps: int, warmup: float, schedule: str) -> float:
    """What the learning rate is multiplied with at `step` (from 0) of `steps`, after `warmup` of them."""
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    progress = max(0.0, step - warmup) / (steps - warmup)
    if schedule == "linear":
        return rise * (1 - progress)
    if schedule == "cosine":
        return rise * (1 + math.cos(math.pi * progress)) / 2
    return rise


class Optimization:
    """AdamW over a model's learned parameters. For each step: `backward` the parts, then `step` once.

    Raises:
        ConfigError: where a part of `learning_rates` is not one of the model's, or nothing is left to learn.
        PlanError: where `precision` needs a GPU and `device` is none.

    """

    def __init__(
        self,
        model: nn.Module,
        device: str,
        *,
        steps: int,
        warmup: float = 0.0,
        schedule: str = "constant",
        learning_rate: float = 1e-3,
        learning_rates: Mapping[str, float] | None = None,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        precision: str = "float32",
    ):
        self.kind = torch.device(device).type
        if precision == "float16" and self.kind != "cuda":
            raise PlanError("train.precision float16 needs a GPU; on a CPU use bfloat16 or float32")
        self.steps, self.warmup, self.schedule = steps, warmup, schedule
        self.clip_norm = math.inf if clip_norm is None else clip_norm
        self.dtype = None if precision == "float32" else getattr(torch, precision)
        self.scaler = torch.GradScaler(self.kind, enabled=precision == "float16")
        groups = parameters_of(model, learning_rate, learning_rates or {}, weight_decay)
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.base_rates = [group["lr"] for group in groups]
        self.adamw = torch.optim.AdamW(groups)
        self.skipped = 0

    def autocast(self) -> AbstractContextManager:
        """Where the forward pass runs in the chosen precision."""
        return torch.autocast(self.kind, self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a part of the batch."""
        self.scaler.scale(loss).backward()

    def step(self, number: int) -> bool:
        """Change the weights by the gradients added up, in step `number` from 0; forget the gradients.

        False, and nothing changed, where they are not finite; with float16 only after `MAX_SKIPPED` such
        steps in a row, each of which lowers its scale.
        """
        factor = rate_factor(number, self.steps, self.warmup, self.schedule)
        for group, base in zip(self.adamw.param_groups, self.base_rates, strict=True):
            group["lr"] = base * factor
        self.scaler.unscale_(self.adamw)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        finite = bool(torch.isfinite(norm))
        self.skipped = 0 if finite else self.skipped + 1
        if finite or self.scaler.is_enabled():
            self.scaler.step(self.adamw)
            self.scaler.update()
        self.adamw.zero_grad()
        return finite or (self.scaler.is_enabled() and self.skipped < MAX_SKIPPED)

    def state_dict(self) -> dict:
        """AdamW's moments and the scale of float16."""
        return {"adamw": self.adamw.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` gave, with this one's own rates and decay."""
        decays = [group["weight_decay"] for group in self.adamw.param_groups]
        self.adamw.load_state_dict(state["adamw"])
        for group, decay in zip(self.adamw.param_groups, decays, strict=True):
            group["weight_decay"] = decay
        self.scaler.load_state_dict(state["scaler"])
