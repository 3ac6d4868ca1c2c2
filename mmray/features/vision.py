"""Pictures → vectors of a transformers vision model, prepared as its own image processor would.

The processor's resize and crop become a `PictureGeometry`, applied where pictures are decoded; its mean and
standard deviation are applied here.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmray.decode.image import PictureGeometry
from mmray.errors import TableError
from mmray.features.pretrained import load_network, load_preprocessor

__all__ = ["VisionEncoder", "vision_geometry"]

BICUBIC = 3
"""PIL's number, as processors name it."""


def vision_geometry(model: str, crop: tuple[float, float, float, float] | None = None) -> PictureGeometry:
    """Resize and crop as the model's image processor says.

    Raises:
        TableError: where the model has none, or wants pictures that are not square.

    """
    return _geometry(model, load_preprocessor("AutoImageProcessor", model), crop)


def _geometry(
    model: str, processor: Any, crop: tuple[float, float, float, float] | None = None
) -> PictureGeometry:
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


class VisionEncoder(nn.Module):
    """uint8 pictures [N, H, W, 3] → float32 [N, dim]; in eval mode, without gradients.

    Args:
        model: A folder in Hugging Face format, or a hub id; of CLIP and its like, the vision tower.
        vector: `cls`, the first token of the last layer; `mean` of all its tokens; `pooler`, the model's own.

    Raises:
        TableError: where the model is not there, lacks weights, or has no such vector.

    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: str, vector: Literal["cls", "mean", "pooler"] = "cls"):
        super().__init__()
        network = load_network(model, needs_pooler=vector == "pooler")
        self.network: Any = getattr(network, "vision_model", network)
        self.vector = vector
        processor = load_preprocessor("AutoImageProcessor", model)
        side_px = _geometry(model, processor).crop_px
        self.register_buffer("mean", torch.tensor(processor.image_mean))
        self.register_buffer("std", torch.tensor(processor.image_std))
        self.eval()
        try:
            self.dim = self(torch.zeros(1, side_px, side_px, 3, dtype=torch.uint8)).shape[1]
        except (AttributeError, TypeError, ValueError) as error:
            raise TableError(f"model {model} gives no vector {vector!r} of a picture: {error}") from error

    @torch.inference_mode()
    def forward(self, pixels_NHWC: Tensor) -> Tensor:
        """Features of each picture."""
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
