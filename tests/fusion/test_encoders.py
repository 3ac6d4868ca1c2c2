import math
from typing import Any

import pytest
import torch

from mmray.fusion.encoders import (
    Centred,
    Conv,
    Identity,
    PooledMLP,
    Recurrent,
    Transformer,
    sinusoidal_positions,
)
from mmray.fusion.readouts import Attention, AtZero, Last
from mmray.fusion.steps import masked_mean, step_mask

LENGTHS = torch.tensor([5, 1, 7, 3])

ENCODERS = {
    "mlp": lambda: PooledMLP(6, 8, layers=2),
    "gru": lambda: Recurrent(6, 8, layers=2, cell="gru"),
    "lstm": lambda: Recurrent(6, 8, cell="lstm"),
    "bidirectional": lambda: Recurrent(6, 8, layers=2, cell="gru", bidirectional=True),
    "transformer": lambda: Transformer(6, 8, layers=2, heads=2),
    "centred": lambda: Centred(Recurrent(6, 8, cell="gru")),
    "conv": lambda: Conv(6, 8, layers=3),
    "identity": lambda: Identity(6),
    "attention readout": lambda: Transformer(6, 8, heads=2, readout=Attention(8)),
    "readout at zero": lambda: Conv(6, 8, readout=AtZero()),
    "last readout": lambda: Identity(6, readout=Last(6)),
}


def encode(encoder: torch.nn.Module, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """With step t at t - 1.2 s, and times at padding that are no numbers."""
    times = (torch.arange(x.shape[1]) - 1.2).expand(x.shape[:2])
    return encoder(x, lengths, times.masked_fill(~step_mask(lengths, x.shape[1]), torch.nan))


@pytest.fixture(params=ENCODERS)
def encoder(request) -> torch.nn.Module:
    torch.manual_seed(0)
    return ENCODERS[request.param]()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(len(LENGTHS), 7, 6, generator=torch.Generator().manual_seed(1))


def with_padding(x: torch.Tensor, lengths: torch.Tensor, value: float) -> torch.Tensor:
    steps = torch.arange(x.shape[1])
    return torch.where((steps < lengths[:, None])[..., None], x, value)


@pytest.mark.parametrize("garbage", [1e9, math.inf, math.nan])
def test_values_in_the_padding_change_no_bit_of_output_and_gradient(encoder, x, garbage):
    results = []
    for value in (0.0, garbage):
        encoder.zero_grad()
        inputs = with_padding(x, LENGTHS, value).requires_grad_()
        y = encode(encoder, inputs, LENGTHS)
        y.square().sum().backward()
        results.append([y.detach(), inputs.grad, *(p.grad.clone() for p in encoder.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_more_padding_and_other_rows_change_nothing(encoder, x):
    alone = torch.cat([encode(encoder, x[b : b + 1, :t], LENGTHS[b : b + 1]) for b, t in enumerate(LENGTHS)])
    padded = encode(encoder, torch.cat([x, torch.full((4, 9, 6), 3.0)], dim=1), LENGTHS)
    torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-6)


def test_empty_rows_are_finite_and_leave_no_gradient(encoder, x):
    lengths = torch.tensor([5, 0, 7, 0])
    y = encode(encoder, x.requires_grad_(), lengths)
    assert y.shape == (4, encoder.width)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())
    assert not x.grad[[1, 3]].any()
    assert x.grad[[0, 2]].any()
    with torch.inference_mode():  # torch may take other kernels here
        assert torch.isfinite(encode(encoder.eval(), x, lengths)).all()
        assert torch.isfinite(encoder.steps(x, lengths)).all()


def test_output_does_not_depend_on_train_mode_without_dropout(encoder, x):
    encoder.eval()
    with torch.inference_mode():  # torch may take other kernels here
        inferred = encode(encoder, x, LENGTHS)
    torch.testing.assert_close(encode(encoder.train(), x, LENGTHS), inferred, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_is_torchs_last_state_of_each_sequence_alone(x, cell, bidirectional):
    encoder = Recurrent(6, 8, layers=2, cell=cell, bidirectional=bidirectional)
    for b, length in enumerate(LENGTHS.tolist()):
        _, state = encoder.rnn(x[b : b + 1, :length])
        last = state[0] if cell == "lstm" else state  # [layers * directions, 1, H]
        expected = last[-2:, 0].flatten() if bidirectional else last[-1, 0]
        torch.testing.assert_close(encode(encoder, x, LENGTHS)[b], expected)


def test_transformer_is_torchs_layers_on_each_sequence_alone(x):
    encoder = Transformer(6, 8, layers=2, heads=2)
    for b, length in enumerate(LENGTHS.tolist()):
        h = encoder.project(x[b : b + 1, :length]) + sinusoidal_positions(length, 8)
        for layer in encoder.layers:
            h = layer(h)
        torch.testing.assert_close(
            encode(encoder, x, LENGTHS)[b], encoder.norm(h)[0].mean(0), rtol=1e-5, atol=1e-6
        )


def test_transformer_knows_the_order_and_the_mlp_does_not(x):
    reversed_x = x[:, :5].flip(1)
    lengths = torch.full((4,), 5)
    transformer, mlp = Transformer(6, 8), PooledMLP(6, 8)
    torch.testing.assert_close(encode(mlp, reversed_x, lengths), encode(mlp, x[:, :5], lengths))
    assert (
        encode(transformer, reversed_x, lengths) - encode(transformer, x[:, :5], lengths)
    ).abs().max() > 1e-3


def test_masked_mean_is_the_mean_of_the_real_steps(x):
    expected = torch.stack([x[b, :length].mean(0) for b, length in enumerate(LENGTHS)])
    torch.testing.assert_close(masked_mean(x, step_mask(LENGTHS, 7)), expected)
    assert not masked_mean(x, torch.zeros(4, 7, dtype=torch.bool)).any()


@pytest.mark.parametrize("width", [6, 7])
def test_positions_follow_the_formula(width):
    table = sinusoidal_positions(5, width)
    for t in range(5):
        for j in range(width):
            angle = t / 10_000 ** (2 * (j // 2) / width)
            assert table[t, j].item() == pytest.approx(
                math.cos(angle) if j % 2 else math.sin(angle), abs=1e-6
            )


def test_centred_sees_what_changes_and_not_a_constant(x):
    encoder = Recurrent(6, 8, cell="gru").eval()
    centred = Centred(encoder)
    shifted = x + 5 * torch.arange(len(x))[:, None, None]
    torch.testing.assert_close(
        encode(centred, shifted, LENGTHS), encode(centred, x, LENGTHS), rtol=1e-4, atol=1e-5
    )
    for row, length in enumerate(LENGTHS.tolist()):
        alone = x[row : row + 1, :length]
        expected = encode(encoder, alone - alone.mean(1, keepdim=True), torch.tensor([length]))
        torch.testing.assert_close(encode(centred, x, LENGTHS)[row], expected[0], rtol=1e-4, atol=1e-5)


def test_conv_is_its_formula_on_each_sequence_alone(x):
    """Each tap by itself: step t of layer i sees steps t - 2^i, t, t + 2^i where the row has them."""
    encoder = Conv(6, 8, layers=3)
    for b, length in enumerate(LENGTHS.tolist()):
        h = encoder.project(x[b, :length])
        norms_and_convs: Any = zip(encoder.norms, encoder.convs, strict=True)
        for i, (norm, conv) in enumerate(norms_and_convs):
            seen = norm(h)
            out = conv.bias.repeat(length, 1)
            for t in range(length):
                for tap, source in enumerate((t - 2**i, t, t + 2**i)):
                    if 0 <= source < length:
                        out[t] = out[t] + conv.weight[:, :, tap] @ seen[source]
            h = h + out.relu()
        expected = h.mean(0)
        torch.testing.assert_close(encode(encoder, x, LENGTHS)[b], expected, rtol=1e-5, atol=1e-6)


def test_identity_passes_the_steps_through(x):
    assert torch.equal(Identity(6).steps(x, torch.full((4,), 7)), x)
    torch.testing.assert_close(encode(Identity(6), x, LENGTHS), masked_mean(x, step_mask(LENGTHS, 7)))


def test_mlp_steps_are_its_layers_on_each_step(x):
    encoder = PooledMLP(6, 8, layers=2)
    for b, length in enumerate(LENGTHS.tolist()):
        for t in range(length):
            one_step = encode(encoder, x[b : b + 1, t : t + 1], torch.tensor([1]))[0]
            torch.testing.assert_close(encoder.steps(x, LENGTHS)[b, t], one_step, rtol=1e-5, atol=1e-6)


def test_state_at_zero_has_seen_the_context_on_both_sides(x):
    """bc-LSTM: the bidirectional state at the utterance that is the sample."""
    encoder = Recurrent(6, 8, cell="lstm", bidirectional=True, readout=AtZero())
    lengths = torch.tensor([5, 1, 7, 3])
    at = [2, 0, 6, 0]  # which step is the sample
    times = torch.arange(7).float() - torch.tensor(at)[:, None]
    y = encoder(x, lengths, times)
    for b, (length, zero) in enumerate(zip(lengths.tolist(), at, strict=True)):
        states, _ = encoder.rnn(x[b : b + 1, :length])
        torch.testing.assert_close(y[b], states[0, zero], rtol=1e-5, atol=1e-6)
