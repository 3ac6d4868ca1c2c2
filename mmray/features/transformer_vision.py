"""`transformer_vision`: pictures → vectors of a transformers vision model, as its own processor has them.

The processor's resize and crop become a `PictureGeometry`, applied where pictures are decoded; its mean and
standard deviation are applied here.
"""

from typing import TYPE_CHECKING, Any, Literal

from mmray.decode.wanted import Pictures
from mmray.errors import TableError
from mmray.features.base import Kind
from mmray.features.device import CPU, Device
from mmray.features.pictures import PictureEncoder, PictureSettings, prepare, wanted
from mmray.settings import PathOrName

if TYPE_CHECKING:
    from torch import Tensor

    from mmray.decode.image import PictureGeometry

__all__ = ["KIND", "VisionFeature", "VisionNetwork", "vision_geometry"]

BICUBIC = 3
"""PIL's number, as processors name it."""


class VisionFeature(PictureSettings):
    """Frames of a video, or one image → vectors of a transformers vision model (ViT, DINOv2, CLIP …)."""

    kind: Literal["transformer_vision"]
    model: PathOrName
    """A folder in Hugging Face format, local or s3://, or a hub id."""
    vector: Literal["cls", "mean", "pooler"] = "cls"
    """Of a picture: its first token; the mean of all; or what the model's own pooler makes of them."""


def vision_geometry(model: str, crop: tuple[float, float, float, float] | None = None) -> "PictureGeometry":
    """Resize and crop as the model's image processor says.

    Raises:
        TableError: where the model has none, or wants pictures that are not square.

    """
    from mmray.features.pretrained import load_preprocessor

    return _geometry(model, load_preprocessor("AutoImageProcessor", model), crop)


def _geometry(
    model: str, processor: Any, crop: tuple[float, float, float, float] | None = None
) -> "PictureGeometry":
    from mmray.decode.image import PictureGeometry

    size: dict[str, int] = dict(processor.size)
    squash = "shortest_edge" not in size
    sides = {size["height"], size["width"]} if squash else {size["shortest_edge"]}
    cropped = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else {}
    crops = set(cropped.values()) or sides
    if len(sides) > 1 or len(crops) > 1:
        raise TableError(f"model {model} wants pictures of {size} {cropped}, which are not square")
    return PictureGeometry(
        crop=crop,
        resize_px=max(sides),
        crop_px=max(crops),
        squash=squash,
        bicubic=int(processor.resample) == BICUBIC,
    )


class VisionNetwork:
    """uint8 pictures [N, H, W, 3] → float32 [N, dim].

    Args:
        model: A folder in Hugging Face format, or a hub id; of CLIP and its like, the vision tower.
        vector: `cls`, the first token of the last layer; `mean` of all its tokens; `pooler`, the model's own.
        device: Where it computes.

    Raises:
        TableError: where the model is not there, lacks weights, or has no such vector.

    """

    def __init__(self, model: str, vector: Literal["cls", "mean", "pooler"] = "cls", device: Device = CPU):
        import torch

        from mmray.features.pretrained import load_network, load_preprocessor

        network = load_network(model, needs_pooler=vector == "pooler")
        self.network: Any = device.placed(getattr(network, "vision_model", network), pictures=True)
        self.vector = vector
        self.device = device
        processor = load_preprocessor("AutoImageProcessor", model)
        side_px = _geometry(model, processor).crop_px
        self.mean = torch.tensor(processor.image_mean, device=device.name)
        self.std = torch.tensor(processor.image_std, device=device.name)
        try:
            picture = torch.zeros(1, side_px, side_px, 3, dtype=torch.uint8, device=device.name)
            self.dim = self(picture).shape[1]
        except (AttributeError, TypeError, ValueError) as error:
            raise TableError(f"model {model} gives no vector {vector!r} of a picture: {error}") from error

    def __call__(self, pixels_NHWC: "Tensor") -> "Tensor":
        """Features of each picture."""
        with self.device.inference():
            x = (pixels_NHWC.float() / 255 - self.mean) / self.std
            outputs = self.network(pixel_values=x.permute(0, 3, 1, 2))
            if self.vector == "pooler":
                if outputs.pooler_output is None:
                    raise ValueError("it has no pooler")
                return outputs.pooler_output.flatten(1).float()
            states = outputs.last_hidden_state
            if states.ndim == 4:  # a convolutional network's grid [N, D, h, w]
                states = states.flatten(2).transpose(1, 2)
                if self.vector == "cls":
                    raise ValueError("it has no tokens; take mean or pooler")
            return (states[:, 0] if self.vector == "cls" else states.mean(1)).float()


def _takes(feature: VisionFeature) -> Pictures:
    return wanted(feature, vision_geometry(feature.model, feature.region))


def _encoder(feature: VisionFeature, device: Device) -> PictureEncoder:
    network = VisionNetwork(feature.model, feature.vector, device)
    return PictureEncoder(network, network.dim, device)


KIND = Kind(
    VisionFeature,
    takes=_takes,
    prepare=prepare,
    encoder=_encoder,
    timed=True,
    weights="model",
    libraries=("torch", "transformers"),
)
