"""Batches: bounded, halved where memory does not suffice, and without a say in the values."""

import numpy as np
import pytest
import torch
from torch import nn

from mmray.errors import MediaError
from mmray.features.base import Step, pieces, whole
from mmray.features.device import Device, batches
from mmray.features.pictures import PictureEncoder


class Small(nn.Module):
    """Takes so many rows at once; tells how many it was given."""

    def __init__(self, rows: int):
        super().__init__()
        self.rows = rows
        self.given: list[int] = []

    def forward(self, pixels_NHWC: torch.Tensor) -> torch.Tensor:
        self.given.append(len(pixels_NHWC))
        if len(pixels_NHWC) > self.rows:
            raise torch.OutOfMemoryError(f"{len(pixels_NHWC)} are more than {self.rows}")
        return pixels_NHWC.float().mean((1, 2))


def clips(*lengths: int) -> list[Step]:
    pictures = np.random.default_rng(0).integers(0, 256, (sum(lengths), 4, 4, 3)).astype(np.uint8)
    return [Step(part, 0.0, 1.0) for part in np.split(pictures, np.cumsum(lengths)[:-1])]


def test_a_batch_is_halved_until_it_fits_and_values_stay():
    steps = clips(7, 1, 12, 3)
    network = Small(rows=3)
    encoded = list(PictureEncoder(network, 3, Device(batch=16))(steps))
    assert network.given[:3] == [16, 8, 4]
    for step, found in zip(steps, encoded, strict=True):
        np.testing.assert_allclose(found.value, step.value.astype(np.float32).mean((1, 2)), rtol=1e-6)
        assert (found.start_s, found.step_s) == (0.0, 1.0)


def test_what_does_not_fit_alone_is_its_sample_s_reason():
    class Picky(Small):
        def forward(self, pixels_NHWC: torch.Tensor) -> torch.Tensor:
            if (pixels_NHWC == 7).all((1, 2, 3)).any():
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB\nmore")
            return super().forward(pixels_NHWC)

    steps = clips(3, 4, 2)
    steps[1].value[2] = 7
    first, second, third = PictureEncoder(Picky(rows=9), 3, Device(batch=9))(steps)
    assert isinstance(second, MediaError)
    assert second.reason == "encoder_out_of_memory"
    assert second.detail == "CUDA out of memory. Tried to allocate 20.00 MiB"
    np.testing.assert_allclose(first.value, steps[0].value.astype(np.float32).mean((1, 2)), rtol=1e-6)
    assert len(third.value) == 2


@pytest.mark.parametrize("limit", [1, 8, 20, 1000])
def test_padded_batches_are_bounded_and_hold_each_item_once(limit):
    weights = np.random.default_rng(1).integers(1, 15, 200).tolist()
    found = list(batches(weights, limit))
    assert sorted(place for batch in found for place in batch) == list(range(200))
    for batch in found:
        assert len(batch) == 1 or max(weights[place] for place in batch) * len(batch) <= limit


def test_a_clip_sent_in_pieces_is_the_whole_clip():
    (step,) = clips(23)
    step = step._replace(times_s=np.arange(23, dtype=np.float32))
    encoder = PictureEncoder(Small(rows=99), 3, Device())
    parts = pieces(step, encoder.cut, most_bytes=5 * 48)
    assert [len(part.value) for part in parts] == [5, 5, 5, 5, 3]
    (expected,) = encoder([step])
    found = whole(list(encoder(parts)))
    assert isinstance(found, Step)
    np.testing.assert_equal(found, expected)
