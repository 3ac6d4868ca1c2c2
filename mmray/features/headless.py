"""A classifier network of torchvision, or of another package, without its head.

The head is the last Linear layer of 1000 classes, ImageNet's; the identity takes its place.

Random weights are useful features only at a sane scale. BatchNorm layers that have seen no data do nothing,
and then deep networks vanish (EfficientNet-B0: 1e-13) or explode (ResNet-152: 3e8, not a float16); so for
random weights their statistics are measured on seeded noise pictures first.
"""

import difflib
import importlib
import pickle
from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from mmray.errors import ConfigError, TableError

__all__ = ["headless", "transforms_of"]

CLASSES = 1000
"""Outputs of a head."""
NOISE_PICTURES = 8


def headless(encoder: str, weights: str, seed: int, side_px: int) -> tuple[nn.Module, int]:
    """The network in eval mode, and how many numbers it gives a picture.

    `weights` are `random` (from `seed`; PyTorch's own random state is left as it was), `default`, or the path
    of a state dict, with or without the head; pictures are squares of `side_px`.

    Raises:
        ConfigError: where there is no such encoder, or it has no head to remove.
        TableError: where the weights cannot be read, or do not fit.

    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = _network(encoder, weights).eval()
        head = _head(network)
        if head is None and ":" not in encoder:
            raise _fault(encoder, f"has no Linear layer of {CLASSES} classes to take off")
        if weights not in ("random", "default"):
            _load(network, weights, head)
        if head is not None:
            _replace(network, head, nn.Identity())
        noise = _noise_pictures(side_px)
        if weights == "random":
            _measure_batch_statistics(network, noise)
    with torch.inference_mode():
        return network, int(network(noise[:1]).flatten(1).shape[1])


# ------------------------------------------------------------------------------------ networks


def transforms_of(encoder: str) -> Any:
    """The transforms of torchvision's default weights; None for a network of another package.

    Raises:
        ConfigError: where torchvision has no such classifier.

    """
    if ":" in encoder:
        return None
    known = torchvision.models.list_models(module=torchvision.models)
    if encoder not in known:
        close = difflib.get_close_matches(encoder, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise _fault(encoder, f"is no torchvision classifier{hint}")
    weights: Any = torchvision.models.get_model_weights(encoder)
    return weights.DEFAULT.transforms()


def _network(encoder: str, weights: str) -> nn.Module:
    """The network with its head, without auxiliary classifiers, random or with its default weights."""
    if ":" in encoder:
        if weights == "default":
            raise _fault(encoder, "has no default weights; give a state dict's path, or 'random'")
        return _imported(encoder)
    # Their slow initialisation is the default, and warns; asked for, it does not.
    inception = {"init_weights": True} if encoder in ("googlenet", "inception_v3") else {}
    if weights != "default":
        network = torchvision.models.get_model(encoder, weights=None, **inception)
    else:
        try:
            network = torchvision.models.get_model(encoder, weights="DEFAULT")
        except (OSError, RuntimeError) as error:  # no network; a broken download
            raise TableError(
                f"torchvision's weights of {encoder} cannot be downloaded: {error}; "
                "download them elsewhere and give the file's path as `weights`"
            ) from error
    if inception:
        for name, _ in [*network.named_children()]:
            if name.lower().startswith("aux"):
                setattr(network, name, None)
        vars(network).update(aux_logits=False, transform_input=True)
    return network


def _imported(encoder: str) -> nn.Module:
    module, path, *arguments = encoder.split(":")
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
        network = found(*arguments)
    except (ImportError, AttributeError, TypeError) as error:
        raise _fault(encoder, f"cannot be imported and called: {error}") from error
    if not isinstance(network, nn.Module):
        raise _fault(encoder, f"returns a {type(network).__name__}, not a torch.nn.Module")
    return network


def _head(network: nn.Module) -> str | None:
    """Name of the last Linear of 1000 classes."""
    linears = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    return next((name for name in reversed(linears) if linears[name].out_features == CLASSES), None)


def _replace(network: nn.Module, name: str, by: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, by)


def _load(network: nn.Module, path: str, head: str | None) -> None:
    """Weights from a file; those of the head and of auxiliary classifiers are left aside."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise TableError(f"weights {path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(state, Mapping):
        raise TableError(f"weights {path} are a {type(state).__name__}, not a state dict")
    aside = ("aux", "AuxLogits", *([f"{head}."] if head else []))
    own = {key: value for key, value in network.state_dict().items() if not key.startswith(aside)}
    state = {key: value for key, value in state.items() if not str(key).startswith(aside)}
    faults = {
        "missing": [key for key in own if key not in state and not key.endswith("num_batches_tracked")],
        "unexpected": [str(key) for key in state if key not in own],
        "of another shape": [
            key for key in own if getattr(state.get(key, own[key]), "shape", None) != own[key].shape
        ],
    }
    if any(faults.values()):
        told = [f"{len(keys)} {what} ({', '.join(keys[:3])} …)" for what, keys in faults.items() if keys]
        raise TableError(f"weights {path} do not fit the network: {'; '.join(told)}")
    network.load_state_dict(state, strict=False)


# ------------------------------------------------------------------------------------ random weights


def _noise_pictures(side_px: int) -> Tensor:
    """Pictures [N, 3, side, side] of unit variance: noise from coarse to fine, as natural pictures have."""
    scales = [side for side in (2, 4, 8, 16, 32, 64) if side < side_px] + [side_px]
    layers = [
        functional.interpolate(torch.randn(NOISE_PICTURES, 3, side, side), size=side_px, mode="bilinear")
        for side in scales
    ]
    pictures = torch.stack(layers).sum(0)
    return pictures / pictures.std()


@torch.no_grad()
def _measure_batch_statistics(network: nn.Module, pictures: Tensor) -> None:
    """Set every BatchNorm's running mean and variance to those of `pictures`; all else stays in eval mode."""
    layers = {module: module.momentum for module in network.modules() if isinstance(module, _BatchNorm)}
    if not layers:
        return
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain average
        layer.train()
    network(pictures)
    for layer, momentum in layers.items():
        layer.momentum = momentum
        layer.eval()


def _fault(encoder: str, message: str) -> ConfigError:
    return ConfigError("the frame encoder", [(encoder, message)])
