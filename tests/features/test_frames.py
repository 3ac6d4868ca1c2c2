"""Any torchvision classifier gives what is left of it when its head is taken off by hand."""

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from mmray.features.frames import FrameNetwork, picture_geometry

HEADS = {
    "resnet18": ("fc", 512),
    "vgg11": ("classifier.6", 4096),
    "inception_v3": ("fc", 2048),
    "efficientnet_b0": ("classifier.1", 1280),
    "convnext_tiny": ("classifier.2", 768),
    "vit_b_16": ("heads.head", 768),
    "swin_t": ("head", 768),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_head_is_off(name, tmp_path):
    head, dim = HEADS[name]
    torch.manual_seed(1)
    options = {"init_weights": False} if name == "inception_v3" else {}
    network = torchvision.models.get_model(name, weights=None, **options).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    parent, _, child = head.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    if name == "inception_v3":
        vars(network)["transform_input"] = True  # as torchvision's own weights want it

    encoder = FrameNetwork(name, str(tmp_path / "weights.pt"))
    side = picture_geometry(name).crop_px
    pixels = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8)
    weights: Any = torchvision.models.get_model_weights(name)
    transforms = weights.DEFAULT.transforms()
    scaled = (pixels.permute(0, 3, 1, 2) / 255 - torch.tensor(transforms.mean)[:, None, None]) / torch.tensor(
        transforms.std
    )[:, None, None]
    with torch.inference_mode():
        expected = network(scaled)
    assert encoder.dim == dim
    torch.testing.assert_close(encoder(pixels), expected, rtol=1e-4, atol=1e-4)
