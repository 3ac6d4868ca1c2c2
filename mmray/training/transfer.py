"""Parts of a model, by a config's names: frozen, with a learning rate of their own, taken from another.

`encoders.face`, `inputs.words`, `fusion`, …: the modules of a FusionModel, by the names the user gave to
features and targets (in the state dict `face` is `face_`, see `mmray.fusion.named`).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mmray.config.explain import did_you_mean
from mmray.errors import ConfigError, TableError
from mmray.fusion.model import UNKNOWN, FusionModel
from mmray.fusion.named import NamedModules
from mmray.training.spec import ModelSpec

__all__ = ["Transfer", "freeze", "parameters_of", "parts", "take_weights"]


def parts(model: nn.Module) -> dict[str, nn.Module]:
    """{dotted name: module} of everything inside `model`."""
    return dict(_parts(model, ""))


def _parts(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        name = prefix + (name.removesuffix("_") if isinstance(module, NamedModules) else name)
        yield name, child
        yield from _parts(child, f"{name}.")


def _chosen(model: nn.Module, setting: str, names: Iterable[str]) -> dict[str, nn.Module]:
    """The parts of these names.

    Raises:
        ConfigError: naming every name that is none of them.

    """
    known = parts(model)
    some = ", ".join(name for name in known if name.count(".") < 2)
    faults = [
        (setting, f"the model has no part {name!r}{did_you_mean(name, known) or f'; it has {some}'}")
        for name in names
        if name not in known
    ]
    if faults:
        raise ConfigError("config", faults)
    return {name: known[name] for name in names}


def freeze(model: nn.Module, names: Iterable[str]) -> list[nn.Module]:
    """Let no gradient change these parts; they are returned, to be kept in eval mode (no dropout).

    Raises:
        ConfigError: naming every name that is no part of the model.

    """
    frozen = list(_chosen(model, "train.freeze", names).values())
    for module in frozen:
        module.requires_grad_(False)
    return frozen


def parameters_of(
    model: nn.Module, rate: float, rates: Mapping[str, float], weight_decay: float = 0.0
) -> list[dict]:
    """Parameter groups {params, lr, weight_decay} of what is not frozen.

    A part within another has its own rate. Only the matrices of layers decay: not biases, the scales of
    norms, embeddings, thresholds between levels or the weights of losses, which are no larger for being
    wrong.

    Raises:
        ConfigError: naming every name that is no part of the model, or where all of it is frozen.

    """
    chosen = _chosen(model, "train.learning_rates", rates)
    rate_of = {parameter: rate for parameter in model.parameters() if parameter.requires_grad}
    if not rate_of:
        raise ConfigError("config", [("train.freeze", "leaves nothing to learn")])
    for name in sorted(chosen, key=lambda name: name.count(".")):
        for parameter in chosen[name].parameters():
            if parameter in rate_of:
                rate_of[parameter] = rates[name]
    embeddings = {
        p for module in model.modules() if isinstance(module, nn.Embedding) for p in [module.weight]
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter, own in rate_of.items():
        decay = weight_decay if parameter.ndim > 1 and parameter not in embeddings else 0.0
        groups.setdefault((own, decay), []).append(parameter)
    return [{"params": group, "lr": own, "weight_decay": decay} for (own, decay), group in groups.items()]


@dataclass(frozen=True)
class Transfer:
    """What a model took from another: names of its state dict, and why it left the others as they are."""

    taken: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        left = "".join(f"\n  {name}: {reason}" for name, reason in self.left.items())
        return f"took {len(self.taken)} of {len(self.taken) + len(self.left)} weights{left}"


@torch.no_grad()
def take_weights(
    model: FusionModel, spec: ModelSpec, saved: ModelSpec, weights: Mapping[str, Tensor]
) -> Transfer:
    """Give `model` the trained weights that mean the same in both models.

    Those are the ones of the same name and shape; of embeddings, the rows of words that both vocabularies
    have; of heads, those whose classes are the same. Priors and the weights of losses stay: they are of
    the new train split.

    Raises:
        TableError: where nothing can be taken.

    """
    other_classes = [
        name
        for name, target in spec.targets.items()
        if name not in saved.targets or target.names != saved.targets[name].names
    ]
    result = Transfer()
    for name, own in model.state_dict().items():
        if name.startswith(("prior_", "log_variance_")):
            continue
        words = next((m for m in spec.vocabularies if name == f"inputs.{m}_.weight"), None)
        if name not in weights:
            result.left[name] = "is not in the other model"
        elif words in saved.vocabularies and own.shape[1:] == weights[name].shape[1:]:
            _take_words(own, spec, saved, words, weights[name])
            result.taken.append(name)
        elif own.shape != weights[name].shape:
            result.left[name] = f"is {tuple(weights[name].shape)} there, {tuple(own.shape)} here"
        elif any(f"targets.{target}_." in name for target in other_classes):
            result.left[name] = "the classes of its target are others"
        else:
            own.copy_(weights[name])
            result.taken.append(name)
    if not result.taken:
        raise TableError(f"train.initialize_from: no weights fit this model; it {result}")
    return result


def _take_words(own_VE: Tensor, spec: ModelSpec, saved: ModelSpec, feature: str, other_WE: Tensor) -> None:
    """Copy the rows of the words both vocabularies have, and those of padding and unknown words."""
    position = {word: i for i, word in enumerate(saved.vocabularies[feature].words, UNKNOWN + 1)}
    own_VE[: UNKNOWN + 1] = other_WE[: UNKNOWN + 1]
    for row, word in enumerate(spec.vocabularies[feature].words, UNKNOWN + 1):
        if word in position:
            own_VE[row] = other_WE[position[word]]
