"""`frames`: pictures → vectors of a classifier network without its head.

Any torchvision classifier works by name, and pictures are prepared as its own weights want them. A network
of another package works by import path, `package.module:function` or `package.module:function:argument`,
naming what returns the module; it gets pictures of 224 pixels scaled to [-1, 1].
"""

from typing import TYPE_CHECKING, Literal

from mmray.decode.wanted import Pictures
from mmray.features.base import Kind
from mmray.features.device import CPU, Device
from mmray.features.pictures import PictureEncoder, PictureSettings, prepare, wanted
from mmray.settings import PathOrName, Positive

if TYPE_CHECKING:
    from torch import Tensor

    from mmray.decode.image import PictureGeometry

__all__ = ["KIND", "FrameNetwork", "FramesFeature", "picture_geometry"]


class FramesFeature(PictureSettings):
    """Frames of a video, or one image → vectors of a torchvision classifier without its head."""

    kind: Literal["frames"]
    encoder: str = "resnet18"
    """Any torchvision classifier by name, or another package's: `package.module:function[:argument]`."""
    weights: PathOrName = "random"
    """`random` (from `seed`), `default` (torchvision's own, downloaded), or a state dict's path."""
    seed: int = 0
    size: Positive | None = None
    """Side of the square fed to the encoder, pixels; default: what its weights were trained with."""


def picture_geometry(
    encoder: str, size: int | None = None, crop: tuple[float, float, float, float] | None = None
) -> "PictureGeometry":
    """Resize and crop as the encoder's weights were trained with, in proportion where `size` is given.

    Raises:
        ConfigError: where no such encoder exists.

    """
    from mmray.decode.image import PictureGeometry
    from mmray.features.headless import transforms_of

    transforms = transforms_of(encoder)
    crop_px = transforms.crop_size[0] if transforms else 224
    resize_px = transforms.resize_size[0] if transforms else 256
    if size is None:
        return PictureGeometry(crop=crop, resize_px=resize_px, crop_px=crop_px)
    return PictureGeometry(crop=crop, resize_px=max(size, round(size * resize_px / crop_px)), crop_px=size)


class FrameNetwork:
    """uint8 pictures [N, H, W, 3] → float32 [N, dim].

    Args:
        encoder: A torchvision classifier's name, or an import path.
        weights: `random`, `default` (torchvision's own, downloaded once), or the path of a state dict, with
            or without the head.
        seed: Of random weights; PyTorch's own random state is left as it was.
        device: Where it computes.

    Raises:
        ConfigError: where there is no such encoder, or it has no head to remove.
        TableError: where the weights cannot be read, or do not fit.

    """

    def __init__(self, encoder: str, weights: str = "random", seed: int = 0, device: Device = CPU):
        import torch

        from mmray.features.headless import headless, transforms_of

        transforms = transforms_of(encoder)
        network, self.dim = headless(encoder, weights, seed, picture_geometry(encoder).crop_px)
        self.device = device
        self.network = device.placed(network, pictures=True)
        self.mean = torch.tensor(transforms.mean if transforms else [0.5] * 3, device=device.name)
        self.std = torch.tensor(transforms.std if transforms else [0.5] * 3, device=device.name)

    def __call__(self, pixels_NHWC: "Tensor") -> "Tensor":
        """Features of each picture."""
        with self.device.inference():
            x = (pixels_NHWC.float() / 255 - self.mean) / self.std
            return self.network(x.permute(0, 3, 1, 2)).flatten(1).float()


def _takes(feature: FramesFeature) -> Pictures:
    return wanted(feature, picture_geometry(feature.encoder, feature.size, feature.region))


def _encoder(feature: FramesFeature, device: Device) -> PictureEncoder:
    network = FrameNetwork(feature.encoder, feature.weights, feature.seed, device)
    return PictureEncoder(network, network.dim, device)


KIND = Kind(
    FramesFeature,
    takes=_takes,
    prepare=prepare,
    encoder=_encoder,
    timed=True,
    weights="weights",
    code="encoder",
    libraries=("torch", "torchvision"),
)
