"""Pictures → vectors of a classifier network without its head.

Any torchvision classifier works by name: its last Linear layer, the one that names the 1000 classes of
ImageNet, is replaced by the identity, and pictures are prepared as its own weights want them. A network of
another package works by import path, `package.module:function` or `package.module:function:argument`, naming
what returns the module; it gets pictures of 224 pixels scaled to [-1, 1], and loses its head likewise if it
has one.

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

from mmray.decode.image import PictureGeometry
from mmray.errors import ConfigError, TableError

__all__ = ["FrameEncoder", "picture_geometry"]

CLASSES = 1000
"""Outputs of a head."""
NOISE_PICTURES = 8


def picture_geometry(
    encoder: str, size: int | None = None, crop: tuple[float, float, float, float] | None = None
) -> PictureGeometry:
    """Resize and crop as the encoder's weights were trained with, in proportion where `size` is given.

    Raises:
        ConfigError: where no such encoder exists.

    """
    preset = _preset(encoder)
    crop_px = preset.crop_size[0] if preset else 224
    resize_px = preset.resize_size[0] if preset else 256
    if size is None:
        return PictureGeometry(crop=crop, resize_px=resize_px, crop_px=crop_px)
    return PictureGeometry(crop=crop, resize_px=max(size, round(size * resize_px / crop_px)), crop_px=size)


class FrameEncoder(nn.Module):
    """uint8 pictures [N, H, W, 3] → float32 [N, dim]; in eval mode, without gradients.

    Args:
        encoder: A torchvision classifier's name, or an import path.
        weights: `random`, `default` (torchvision's own, downloaded once), or the path of a state dict, with
            or without the head.
        seed: Of random weights; PyTorch's own random state is left as it was.

    Raises:
        ConfigError: where there is no such encoder, or it has no head to remove.
        TableError: where the weights cannot be read, or do not fit.

    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: str, weights: str = "random", seed: int = 0):
        super().__init__()
        preset = _preset(encoder)
        side_px = picture_geometry(encoder).crop_px
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.network = _network(encoder, weights).eval()
            head = _head(self.network)
            if head is None and preset:
                raise _fault(encoder, f"has no Linear layer of {CLASSES} classes to take off")
            if weights not in ("random", "default"):
                _load(self.network, weights, head)
            if head is not None:
                _replace(self.network, head, nn.Identity())
            noise = _noise_pictures(side_px)
            if weights == "random":
                _measure_batch_statistics(self.network, noise)
        with torch.inference_mode():
            self.dim = int(self.network(noise[:1]).flatten(1).shape[1])
        self.register_buffer("mean", torch.tensor(preset.mean if preset else [0.5] * 3))
        self.register_buffer("std", torch.tensor(preset.std if preset else [0.5] * 3))
        self.eval()

    @torch.inference_mode()
    def forward(self, pixels_NHWC: Tensor) -> Tensor:
        """Features of each picture."""
        x = (pixels_NHWC.float() / 255 - self.mean) / self.std
        return self.network(x.permute(0, 3, 1, 2)).flatten(1).float()


# ------------------------------------------------------------------------------------ networks


def _preset(encoder: str) -> Any:
    """The transforms of torchvision's default weights; None for a network of another package."""
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
