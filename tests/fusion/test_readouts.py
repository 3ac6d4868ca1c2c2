import numpy as np
import pytest
import torch

from mmray.fusion.readouts import Attention, AtZero, Last, Mean
from mmray.fusion.steps import step_mask

LENGTHS = [5, 1, 4]
WIDTH = 3


@pytest.fixture
def h() -> torch.Tensor:
    return torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(0))


def read(readout: torch.nn.Module, h: torch.Tensor, times: torch.Tensor | None = None) -> np.ndarray:
    mask = step_mask(torch.tensor(LENGTHS), 5)
    times = torch.arange(5).float().expand(3, 5) if times is None else times
    spoilt = h.masked_fill(~mask[..., None], torch.nan)
    with torch.no_grad():
        return readout(spoilt, mask, times.masked_fill(~mask, torch.nan)).numpy()


def test_mean_and_last_are_numpys(h):
    rows = [x[:n] for x, n in zip(h.numpy(), LENGTHS, strict=True)]
    np.testing.assert_allclose(read(Mean(), h), [x.mean(0) for x in rows], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(read(Last(WIDTH), h), [x[-1] for x in rows])
    both_ways = [[*x[-1][:1], *x[0][1:]] for x in rows]  # the last two columns ran backwards
    np.testing.assert_array_equal(read(Last(1), h), np.array(both_ways, dtype=np.float32))


def test_at_zero_is_the_step_nearest_to_zero_the_earliest_of_equals(h):
    times = torch.tensor([[-2.0, -1.1, 1.2, 3, 4], [7, 0, 0, 0, 0], [-3, -1, 1, 2, 0]])
    expected = [h[0, 1], h[1, 0], h[2, 1]]
    np.testing.assert_array_equal(read(AtZero(), h, times), torch.stack(expected).numpy())


def test_attention_is_its_formula(h):
    torch.manual_seed(0)
    readout = Attention(WIDTH)
    weight, bias = (p.detach().numpy() for p in (readout.key.weight, readout.key.bias))
    query = readout.query.detach().numpy()
    for b, y in enumerate(read(readout, h)):
        steps = h[b, : LENGTHS[b]].numpy()
        scores = np.array([query @ np.tanh(weight @ step + bias) for step in steps])
        weights = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(y, weights @ steps, rtol=1e-5, atol=1e-6)
