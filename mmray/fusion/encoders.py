"""The steps of one modality [B, T, D] → steps [B, T, H], or one vector a row [B, H].

Every encoder has `width` (H) and two ways to be called, of which a model uses one:

    steps(x_BTD, lengths_B)                → [B, T, H], for fusions that see time
    forward(x_BTD, lengths_B, times_BT)    → [B, H]: the same steps through the encoder's `readout`

Row b has lengths_B[b] (int64) real steps, the rest is padding whose values and times, NaN included, reach
neither the output nor a gradient. A row of length 0 gives finite numbers of no meaning; the model masks
them. A model that calls `steps` gives the encoder a readout without parameters, which would stay unused.

Normalisation is LayerNorm: batches of ragged, partly absent rows have no statistics worth sharing, and a
row's output must not depend on its neighbours.

Shapes: B rows, T steps, D numbers a step, H width of the output.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mmray.fusion.readouts import Last, Mean
from mmray.fusion.steps import masked_mean, step_mask, zero_padding

__all__ = [
    "Centred",
    "Conv",
    "Encoder",
    "Identity",
    "PooledMLP",
    "Recurrent",
    "Stretch",
    "Transformer",
    "sinusoidal_positions",
    "stretched",
]


class PooledMLP(nn.Module):
    """Mean over time, then `layers` × (Linear, LayerNorm, ReLU, Dropout); `steps` has them on each step."""

    def __init__(self, width_in: int, hidden: int, layers: int = 1, dropout: float = 0.0):
        super().__init__()
        self.width = hidden
        widths = [width_in] + [hidden] * (layers - 1)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(w, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Dropout(dropout))
                for w in widths
            )
        )

    def steps(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """[B, T, D] → [B, T, H]."""
        return self.layers(zero_padding(x_BTD, step_mask(lengths_B, x_BTD.shape[1])))

    def forward(self, x_BTD: Tensor, lengths_B: Tensor, times_BT: Tensor) -> Tensor:
        """[B, T, D] → [B, H]."""
        return self.layers(masked_mean(x_BTD, step_mask(lengths_B, x_BTD.shape[1])))


class Stretch(nn.Module):
    """Every row stretched or shrunk over time to N steps, flattened, then a layer → [B, hidden].

        y = Dropout(ReLU(LN(W Dropout(flatten(S x)) + b)))

    It knows what is where in the sample, which a mean or a last state does not: for words, gestures and
    whatever else has a course. S is `stretched`. It has no steps for a fusion to read.
    """

    def __init__(
        self, width_in: int, hidden: int, steps: int, input_dropout: float = 0.0, dropout: float = 0.0
    ):
        super().__init__()
        self.width, self.n_steps = hidden, steps
        self.layers = nn.Sequential(
            nn.Dropout(input_dropout),
            nn.Linear(steps * width_in, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
        )

    def forward(self, x_BTD: Tensor, lengths_B: Tensor, times_BT: Tensor) -> Tensor:
        """[B, T, D] → [B, hidden]."""
        x_BTD = zero_padding(x_BTD, step_mask(lengths_B, x_BTD.shape[1]))
        return self.layers(stretched(x_BTD, lengths_B, self.n_steps).flatten(1))


def stretched(x_BTD: Tensor, lengths_B: Tensor, steps: int) -> Tensor:
    """The real steps of each row on N steps over the same time, [B, N, D]; finite where there are none.

    Step n looks at c_n = (n + 1/2) L / N - 1/2 in a row of L steps; step t weighs max(0, 1 - |t - c_n| / s),
    s = max(1, L / N), over the sum of its weights: between two steps a linear interpolation, over many a
    mean. That is how pictures are resized (`interpolate(mode="bilinear", antialias=True)`), row by row.
    """
    lengths_B11 = lengths_B.to(x_BTD)[:, None, None].clamp(min=1)
    ratio_B11 = lengths_B11 / steps
    centres_BN1 = (torch.arange(steps, device=x_BTD.device)[:, None] + 0.5) * ratio_B11 - 0.5
    t = torch.arange(x_BTD.shape[1], device=x_BTD.device)
    weights_BNT = (1 - (t - centres_BN1).abs() / ratio_B11.clamp(min=1)).clamp(min=0)
    weights_BNT = torch.where(t < lengths_B11, weights_BNT, 0.0)
    return weights_BNT / weights_BNT.sum(2, keepdim=True) @ x_BTD


class Identity(nn.Module):
    """The steps as they are: for vectors that need no more than a readout."""

    def __init__(self, width_in: int, *, readout: nn.Module | None = None):
        super().__init__()
        self.width = width_in
        self.readout = readout or Mean()

    def steps(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """`x_BTD`, zeros at padding."""
        return zero_padding(x_BTD, step_mask(lengths_B, x_BTD.shape[1]))

    def forward(self, x_BTD: Tensor, lengths_B: Tensor, times_BT: Tensor) -> Tensor:
        """[B, T, D] → [B, D]."""
        return self.readout(self.steps(x_BTD, lengths_B), step_mask(lengths_B, x_BTD.shape[1]), times_BT)


class Recurrent(nn.Module):
    """GRU or LSTM over time; by default the state after the last real step (backwards: after the first).

    `width` is `hidden`, twice that when bidirectional. Dropout is between layers and on the vector.
    """

    def __init__(
        self,
        width_in: int,
        hidden: int,
        layers: int = 1,
        dropout: float = 0.0,
        *,
        cell: Literal["gru", "lstm"],
        bidirectional: bool = False,
        readout: nn.Module | None = None,
    ):
        super().__init__()
        self.width = hidden * (2 if bidirectional else 1)
        self.rnn = (nn.GRU if cell == "gru" else nn.LSTM)(
            width_in,
            hidden,
            layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.readout = readout or Last(hidden)
        self.dropout = nn.Dropout(dropout)

    def steps(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """State after every step, [B, T, width]; zeros at padding."""
        if torch.onnx.is_in_onnx_export() and not self.rnn.bidirectional:
            # Forwards, no state depends on later padding, and packing is no part of a graph.
            mask_BT = step_mask(lengths_B, x_BTD.shape[1])
            return zero_padding(self.rnn(zero_padding(x_BTD, mask_BT))[0], mask_BT)
        # Packing refuses empty rows: they run one step of zeros.
        packed = pack_padded_sequence(
            zero_padding(x_BTD, step_mask(lengths_B, x_BTD.shape[1])),
            lengths_B.clamp(min=1).cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        return pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x_BTD.shape[1])[0]

    def forward(self, x_BTD: Tensor, lengths_B: Tensor, times_BT: Tensor) -> Tensor:
        """[B, T, D] → [B, width]."""
        steps_BTH, mask_BT = self.steps(x_BTD, lengths_B), step_mask(lengths_B, x_BTD.shape[1])
        return self.dropout(self.readout(steps_BTH, mask_BT, times_BT))


class Transformer(nn.Module):
    """Linear + sinusoidal positions, self-attention layers; by default the mean over the real steps.

    Vaswani et al. 2017, "Attention is all you need", with LayerNorm before each block (Xiong et al. 2020,
    "On layer normalization in the transformer architecture"), which trains without a warm-up.
    """

    def __init__(
        self,
        width_in: int,
        hidden: int,
        layers: int = 1,
        dropout: float = 0.0,
        *,
        heads: int = 4,
        readout: nn.Module | None = None,
    ):
        super().__init__()
        self.width = hidden
        self.project = nn.Linear(width_in, hidden)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(hidden, heads, 4 * hidden, dropout, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(hidden)
        self.readout = readout or Mean()

    def steps(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Output of the last layer at every step, [B, T, width]; finite and without meaning at padding."""
        h_BTH = self.project(zero_padding(x_BTD, step_mask(lengths_B, x_BTD.shape[1])))
        h_BTH = self.dropout(h_BTH + sinusoidal_positions(h_BTH.shape[1], self.width).to(h_BTH))
        # Over no key at all torch's inference kernel gives NaN: an empty row attends to a step of zeros.
        padding = ~step_mask(lengths_B.clamp(min=1), x_BTD.shape[1])
        for layer in self.layers:
            h_BTH = layer(h_BTH, src_key_padding_mask=padding)
        return self.norm(h_BTH)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor, times_BT: Tensor) -> Tensor:
        """[B, T, D] → [B, H]."""
        return self.readout(self.steps(x_BTD, lengths_B), step_mask(lengths_B, x_BTD.shape[1]), times_BT)


class Conv(nn.Module):
    """Residual convolutions over time, each seeing twice as far; by default the mean over the real steps.

        h_0 = W x + b
        h_i = h_{i-1} + Dropout(ReLU(Conv_i(LayerNorm(h_{i-1}))))     Conv_i: `kernel` taps, 2^(i-1) apart

    Bai et al. 2018, "An empirical evaluation of generic convolutional and recurrent networks for sequence
    modeling" (TCN), centred instead of causal, since the whole sample is known, and with LayerNorm for
    weight normalisation. A layer sees zeros before the first and after the last real step.
    """

    def __init__(
        self,
        width_in: int,
        hidden: int,
        layers: int = 1,
        dropout: float = 0.0,
        *,
        kernel: int = 3,
        readout: nn.Module | None = None,
    ):
        super().__init__()
        self.width = hidden
        self.project = nn.Linear(width_in, hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(layers))
        self.convs = nn.ModuleList(
            nn.Conv1d(hidden, hidden, kernel, padding="same", dilation=2**i) for i in range(layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.readout = readout or Mean()

    def steps(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Output of the last layer at every step, [B, T, width]; finite and without meaning at padding."""
        mask_BT = step_mask(lengths_B, x_BTD.shape[1])
        h_BTH = self.project(zero_padding(x_BTD, mask_BT))
        for norm, conv in zip(self.norms, self.convs, strict=True):
            seen_BHT = zero_padding(norm(h_BTH), mask_BT).transpose(1, 2)
            h_BTH = h_BTH + self.dropout(conv(seen_BHT).relu()).transpose(1, 2)
        return h_BTH

    def forward(self, x_BTD: Tensor, lengths_B: Tensor, times_BT: Tensor) -> Tensor:
        """[B, T, D] → [B, H]."""
        return self.readout(self.steps(x_BTD, lengths_B), step_mask(lengths_B, x_BTD.shape[1]), times_BT)


class Centred(nn.Module):
    """Subtracts each row's mean over its real steps before `encoder`: what changes, not how it looks.

    Cepstral mean normalisation (Atal 1974, "Effectiveness of linear prediction characteristics of the speech
    wave"), for any vectors: it takes away the face, the voice, the room, and leaves the movement.
    """

    def __init__(self, encoder: Recurrent | Transformer | Conv):
        super().__init__()
        self.encoder = encoder
        self.width = encoder.width

    def steps(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """The encoder's steps, [B, T, width]."""
        return self.encoder.steps(self._centred(x_BTD, lengths_B), lengths_B)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor, times_BT: Tensor) -> Tensor:
        """[B, T, D] → [B, width]."""
        return self.encoder(self._centred(x_BTD, lengths_B), lengths_B, times_BT)

    def _centred(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        return x_BTD - masked_mean(x_BTD, step_mask(lengths_B, x_BTD.shape[1]))[:, None]


Encoder = PooledMLP | Stretch | Identity | Recurrent | Transformer | Conv | Centred


def sinusoidal_positions(steps: int, width: int) -> Tensor:
    """[T, H] float32: p[t, 2i] = sin(t / 10000^(2i/H)), p[t, 2i+1] = cos of it (Vaswani et al. 2017)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(steps)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
