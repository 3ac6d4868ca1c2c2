"""A model built and taken through one step on a few rows: what would stop its training, found before it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmray.config import ModelConfig, TrainConfig
from mmray.errors import MmrayError
from mmray.targets import Target
from mmray.training.batches import FeatureSet
from mmray.training.checkpoint import load_weights
from mmray.training.losses import Objective, loss_divisors, loss_sums
from mmray.training.optimization import Optimization
from mmray.training.spec import make_spec
from mmray.training.statistics import Moments, summarise
from mmray.training.transfer import freeze, take_weights

__all__ = ["rehearse"]


def rehearse(
    model_config: ModelConfig,
    train_config: TrainConfig,
    rows: FeatureSet,
    everyone: FeatureSet,
    features: Sequence[str],
    targets: Mapping[str, Target],
    *,
    device: str,
    initialize_from: str | Path | None = None,
) -> dict[str, Any]:
    """Build the model for `rows`, with classes from `everyone` (no features needed), and take one step.

    Returns {parameters, trained (those not frozen), loss}. Statistics are those of the rows: the loss says
    nothing but that there is one.

    Raises:
        ConfigError: where a part to freeze, or with a learning rate of its own, is not one of the model's, or
            the model cannot be built.
        PlanError: where float16 is asked for without a GPU.
        TableError: where no weight of `initialize_from` fits, or it is no whole model.
        MmrayError: where the step has no finite loss or gradient.
    """
    found = summarise({name: rows.features[name] for name in features}, np.arange(len(rows)))
    spec = make_spec(model_config, train_config, everyone, found, targets)
    torch.manual_seed(train_config.seed)
    model = spec.build()
    scales = {name: x.scale(name) for name, x in found.items() if isinstance(x, Moments) and x.n}
    model.set_statistics(scales, {})
    if initialize_from is not None:
        take_weights(model, spec, *load_weights(initialize_from))
    model.to(device).train()
    for part in freeze(model, train_config.freeze):
        part.eval()
    optimization = Optimization(
        model,
        device,
        steps=1,
        learning_rate=train_config.learning_rate,
        learning_rates=train_config.learning_rates,
        weight_decay=train_config.weight_decay,
        clip_norm=train_config.clip_norm,
        precision=train_config.precision,
    )
    batch = spec.examples(rows).batch(np.arange(len(rows))).to(device)
    with optimization.autocast():
        outputs = model(batch.inputs, batch.lengths, batch.times)
    encoded = spec.encoded(rows)
    divisors = loss_divisors(spec.targets, encoded, np.arange(len(rows)))
    loss = Objective(spec, model).step(loss_sums(spec.targets, outputs, batch.targets), divisors)
    optimization.backward(loss)
    if not math.isfinite(loss.item()) or not optimization.step(0):
        raise MmrayError(
            "one step on the tried samples has no finite loss or gradient; look for extreme values in their "
            "features and targets"
        )
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained": sum(parameter.numel() for parameter in optimization.parameters),
        "loss": loss.item(),
    }
