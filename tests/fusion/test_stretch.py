"""Stretching against torch's own picture resizing, row by row."""

import pytest
import torch
from torch.nn import functional as F

from mmray.fusion.encoders import Stretch, stretched


@pytest.mark.parametrize("steps", [1, 4, 9])
def test_rows_are_resized_as_pictures_are(steps):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([1, 2, 3, 5, 8, 13, 30])
    x = torch.randn(len(lengths), 30, 3, generator=generator)  # [B, T, D]
    ours = stretched(x, lengths, steps)
    for row, length in enumerate(lengths.tolist()):
        picture = x[row, :length].T[None, None].contiguous()  # D lines of T points
        theirs = F.interpolate(picture, size=(3, steps), mode="bilinear", antialias=True, align_corners=False)
        torch.testing.assert_close(ours[row], theirs[0, 0].T)


def test_a_constant_stays_and_a_ramp_keeps_its_mean():
    ramp = torch.arange(12.0)[None, :, None]
    short = stretched(ramp, torch.tensor([12]), 4)[0, :, 0]
    assert short.diff().gt(0).all()
    assert short.mean().item() == pytest.approx(5.5, abs=1e-5)
    assert stretched(torch.ones(1, 5, 2), torch.tensor([5]), 7).eq(1).all()


def test_padding_and_absent_rows_change_nothing():
    torch.manual_seed(0)
    encoder = Stretch(3, 8, 4).eval()
    x, lengths = torch.randn(3, 6, 3), torch.tensor([6, 2, 0])
    padded = F.pad(x, (0, 0, 0, 5), value=torch.nan)
    padded[1, 2:] = padded[2] = torch.nan
    times = torch.zeros(3, 11)
    out = encoder(padded, lengths, times)
    assert out.isfinite().all()
    torch.testing.assert_close(out[:1], encoder(x[:1], lengths[:1], times[:1, :6]))
    torch.testing.assert_close(out[1:2], encoder(x[1:2, :2], lengths[1:2], times[1:2, :2]))
    encoder(padded.requires_grad_(), lengths, times).sum().backward()
    assert padded.grad is not None
    assert padded.grad[1:, 2:].eq(0).all()
