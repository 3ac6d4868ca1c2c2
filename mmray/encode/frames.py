"""Pictures → vectors of a classifier network without its head.

Any torchvision classifier works by name: its last Linear layer, the one that names the classes, is
replaced by the identity, and pictures are prepared as its own weights want them. A network of another
package works by import path, `package.module:function` or `package.module:function:argument`, naming what
returns the module; it gets pictures of 224 pixels scaled to [-1, 1].
"""

import difflib
import importlib
import pickle
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from mmray.decode.image import PictureGeometry
from mmray.errors import ConfigError, TableError

__all__ = ["FrameEncoder", "picture_geometry"]


def picture_geometry(
    encoder: str, size: int | None = None, crop: tuple[float, float, float, float] | None = None
) -> PictureGeometry:
    """Resize and crop as the encoder's weights were trained with, scaled where `size` is given.

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
    """uint8 pictures [N, H, W, 3] → float32 [N, dim]; always in eval mode, never with gradients."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: str, weights: str = "random", seed: int = 0):
        super().__init__()
        preset = _preset(encoder)
        self.network = _network(encoder, weights, seed)
        self.dim = _remove_head(self.network, encoder)
        self.register_buffer("mean", torch.tensor(preset.mean if preset else [0.5] * 3))
        self.register_buffer("std", torch.tensor(preset.std if preset else [0.5] * 3))
        self.eval()

    @torch.inference_mode()
    def forward(self, pixels_NHWC: Tensor) -> Tensor:
        """Features of each picture."""
        x = (pixels_NHWC.float() / 255 - self.mean) / self.std
        return self.network(x.permute(0, 3, 1, 2)).flatten(1).float()


def _preset(encoder: str) -> Any:
    """The transforms of torchvision's default weights; None for a network of another package."""
    if ":" in encoder:
        return None
    try:
        weights: Any = torchvision.models.get_model_weights(encoder)
        return weights.DEFAULT.transforms()
    except ValueError:
        known = torchvision.models.list_models(module=torchvision.models)
        close = difflib.get_close_matches(encoder, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError("features", [(encoder, f"no torchvision classifier has this name{hint}")]) from None


def _network(encoder: str, weights: str, seed: int) -> nn.Module:
    default = weights == "default"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if ":" in encoder:
            network = _imported(encoder)
        else:
            extra = (
                {} if default else {"init_weights": True} if encoder in ("googlenet", "inception_v3") else {}
            )
            network = torchvision.models.get_model(encoder, weights="DEFAULT" if default else None, **extra)
        if weights == "random":
            return network
    if not default:
        _load(network, weights)
    return network


def _imported(encoder: str) -> nn.Module:
    module, path, *arguments = encoder.split(":")
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
        return found(*arguments)
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError("features", [(encoder, f"cannot be imported and called: {error}")]) from None


def _load(network: nn.Module, weights: str) -> None:
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if isinstance(error, OSError) else "it is no state dict"
        raise TableError(f"weights {weights} cannot be read: {reason}") from None
    head = f"{_head_of(network)[0]}."
    own = network.state_dict()
    state = {key: value for key, value in state.items() if not key.startswith(head)}
    missing = [key for key in own if key not in state and not key.startswith(head)]
    unexpected = [key for key in state if key not in own]
    shapes = [key for key in state if key in own and state[key].shape != own[key].shape]
    if missing or unexpected or shapes:
        told = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
        parts = [f"{len(keys)} {what} ({', '.join(keys[:3])} …)" for what, keys in told.items() if keys]
        raise TableError(f"weights {weights} do not fit the network: {'; '.join(parts)}")
    network.load_state_dict(state, strict=False)


def _head_of(network: nn.Module) -> tuple[str, nn.Linear]:
    linears = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and not name.lower().startswith("aux")
    ]
    if not linears:
        raise ConfigError("features", [(type(network).__name__, "has no Linear layer to take as its head")])
    return linears[-1]


def _remove_head(network: nn.Module, encoder: str) -> int:
    """Replace the last Linear by the identity; returns the width it took."""
    name, head = _head_of(network)
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    return head.in_features
