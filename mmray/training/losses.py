"""Outputs and truths → the loss of a step, the same however its rows are spread over workers.

    loss_sums        each worker: {output: sum over its own rows}
    loss_divisors    everyone: {target: weight of all rows of the step}
    Objective.step   each worker: its part of the step's loss; the parts add up to the whole

A mean over a worker's own rows would weigh the rows of a worker with few known truths too much. A sum
divided by what all workers agree on does not, so the parts' gradients add up to those of one worker.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmray.fusion.model import FusionModel
from mmray.targets import FittedTarget
from mmray.training.spec import ModelSpec

__all__ = ["Objective", "loss_divisors", "loss_sums"]


def loss_divisors(
    targets: Mapping[str, FittedTarget], truths: Mapping[str, np.ndarray], rows: np.ndarray
) -> dict[str, float]:
    """{target: the summed weights of these rows}, 0 where no truth is known: what `loss_sums` is divided by.

    A row of unknown truth weighs 0, any other 1, or what its class is given.
    """
    return {name: float(target.row_weights(truths[name][rows]).sum()) for name, target in targets.items()}


def loss_sums(
    targets: Mapping[str, FittedTarget], outputs: Mapping[str, Tensor], truths: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """{output: loss summed over the rows whose truth is known}; 0 with a zero gradient where none is.

    `outputs` {target or modality/target: [B, C]}; `truths` {target: as in `batches.Batch`}. By target:

        classification   cross-entropy, smoothed labels (Szegedy et al. 2016, "Rethinking the inception
                         architecture"), each class's term times its weight
        multilabel       binary cross-entropy, mean over the classes, the positives' term times its weight
        regression       in standard deviations: e², |e|, or Huber's e²/2 up to |e| = 1 and |e| - 1/2 beyond
        ordinal          binary cross-entropy of being above each threshold, summed over thresholds (CORAL)
    """
    return {
        name: targets[target_of(name)].loss_sum(y_BC.float(), truths[target_of(name)])
        for name, y_BC in outputs.items()
        if target_of(name) in truths
    }


def target_of(output: str) -> str:
    """The target an output of the model is about: `mood` of `mood` and `face/mood`."""
    return output.rpartition("/")[2]


@dataclass(frozen=True)
class Objective:
    """How the losses of the targets, and of unimodal heads beside them, become one number.

        sum over targets t of  w_t (L_t + h · sum over modalities m of L_mt)

    with `train.loss_weights` for w and `model.unimodal_heads` for h. Learned weights (Kendall, Gal, Cipolla
    2018, "Multi-task learning using uncertainty to weigh losses") are w_t = exp(-s_t), half that for a
    squared error, plus s_t / 2 for each target with a known truth; s_t = log variance is a parameter of the
    model, and only the fused output's loss moves it.
    """

    spec: ModelSpec
    model: FusionModel
    """Not its DDP wrapper: its log variances are read here."""

    def step(self, sums: Mapping[str, Tensor], divisors: Mapping[str, float], share: float = 1.0) -> Tensor:
        """This worker's part of a step's loss, from its `loss_sums` and everyone's `loss_divisors`.

        `share` is the part of the step that this call is: 1 / workers (and / accumulated batches). It
        applies to what depends on no row.
        """
        return torch.stack(
            [self._term(output, value, divisors, share) for output, value in sums.items()]
        ).sum()

    def _term(self, output: str, value: Tensor, divisors: Mapping[str, float], share: float) -> Tensor:
        target = target_of(output)
        loss = value / (divisors[target] or 1.0)
        head = self.spec.model.unimodal_heads if output != target else 1.0
        if not self.model.learned_weights:
            return self._fixed(target) * head * loss
        log_variance = self.model.get_parameter(f"log_variance_{target}")
        factor = 0.5 if self.spec.targets[target].squared_error else 1.0
        if output != target:
            return factor * (-log_variance.detach()).exp() * head * loss
        # Without a known truth nothing holds the log variance back: it rests.
        regularizer = log_variance / 2 if divisors[target] else 0.0 * log_variance
        return factor * (-log_variance).exp() * loss + share * regularizer

    def value(self, sums: Mapping[str, float], divisors: Mapping[str, float]) -> float:
        """The loss to report and to choose an epoch by: that of the fused outputs, every target's counts 1.

        Neither given nor learned weights change it: what they do to a loss says nothing about the model, and
        models that differ in them can be compared.
        """
        return sum(sums[name] / (divisors[name] or 1.0) for name in self.spec.targets)

    def _fixed(self, target: str) -> float:
        weights = self.spec.train.loss_weights
        return weights.get(target, 1.0) if isinstance(weights, dict) else 1.0
