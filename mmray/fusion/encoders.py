"""The steps of one modality [B, T, D] → one vector a row [B, H].

Every encoder is called with `x_BTD` and `lengths_B` (int64): row b has lengths_B[b] real steps, the rest is
padding whose values, NaN included, reach neither the output nor a gradient. A row of length 0 gives finite
numbers of no meaning; the model masks them. Encoders that keep time also have `steps` → [B, T, H], from
which fusions over sequences can start; `forward` pools the same steps. `width` is H of the output.

Normalisation is LayerNorm: batches of ragged, partly absent rows have no statistics worth sharing, and a
row's output must not depend on its neighbours.

Shapes: B rows, T steps, D numbers a step, H width of the output.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

__all__ = [
    "Centred",
    "PooledMLP",
    "Recurrent",
    "Transformer",
    "masked_mean",
    "sinusoidal_positions",
    "step_mask",
]


def step_mask(lengths_B: Tensor, steps: int) -> Tensor:
    """[B, T] bool: True where a step is real."""
    return torch.arange(steps, device=lengths_B.device) < lengths_B[:, None]


def zero_padding(x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
    """`x_BTD` with padding set to 0; a multiplication would keep NaN."""
    return torch.where(step_mask(lengths_B, x_BTD.shape[1])[..., None], x_BTD, 0.0)


def masked_mean(x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
    """Mean over the real steps, [B, D]; zeros for a row of length 0."""
    return zero_padding(x_BTD, lengths_B).sum(1) / lengths_B.clamp(min=1)[:, None]


class PooledMLP(nn.Module):
    """Mean over time, then `layers` × (Linear, LayerNorm, ReLU, Dropout)."""

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

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """[B, T, D] → [B, H]."""
        return self.layers(masked_mean(x_BTD, lengths_B))


class Centred(nn.Module):
    """Subtracts each row's mean over its real steps before `encoder`: what changes, not how it looks.

    Cepstral mean normalisation (Atal 1974, "Effectiveness of linear prediction characteristics of the speech
    wave"), for any vectors: it takes away the face, the voice, the room, and leaves the movement.
    """

    def __init__(self, encoder: "Recurrent | Transformer"):
        super().__init__()
        self.encoder = encoder
        self.width = encoder.width

    def steps(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """The encoder's steps, [B, T, width]."""
        return self.encoder.steps(self._centred(x_BTD, lengths_B), lengths_B)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """[B, T, D] → [B, width]."""
        return self.encoder(self._centred(x_BTD, lengths_B), lengths_B)

    def _centred(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        return x_BTD - masked_mean(x_BTD, lengths_B)[:, None]


class Recurrent(nn.Module):
    """GRU or LSTM over time; the state after the last real step (and after the first, backwards).

    `width` is `hidden`, twice that when bidirectional. Dropout is between layers and on the output.
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
    ):
        super().__init__()
        self.hidden = hidden
        self.width = hidden * (2 if bidirectional else 1)
        self.rnn = (nn.GRU if cell == "gru" else nn.LSTM)(
            width_in,
            hidden,
            layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(dropout)

    def steps(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """State after every step, [B, T, width]; zeros at padding."""
        # Packing refuses empty rows: they run one step of zeros.
        packed = pack_padded_sequence(
            zero_padding(x_BTD, lengths_B),
            lengths_B.clamp(min=1).cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        return pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x_BTD.shape[1])[0]

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """[B, T, D] → [B, width]."""
        steps_BTH = self.steps(x_BTD, lengths_B)
        rows = torch.arange(len(steps_BTH), device=steps_BTH.device)
        forwards = steps_BTH[rows, (lengths_B - 1).clamp(min=0), : self.hidden]
        backwards = steps_BTH[:, 0, self.hidden :]  # no columns when one-directional
        return self.dropout(torch.cat([forwards, backwards], dim=1))


class Transformer(nn.Module):
    """Linear + sinusoidal positions, self-attention layers, mean over the real steps.

    Vaswani et al. 2017, "Attention is all you need", with LayerNorm before each block (Xiong et al. 2020,
    "On layer normalization in the transformer architecture"), which trains without a warm-up.
    """

    def __init__(self, width_in: int, hidden: int, layers: int = 1, dropout: float = 0.0, *, heads: int = 4):
        super().__init__()
        self.width = hidden
        self.project = nn.Linear(width_in, hidden)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(hidden, heads, 4 * hidden, dropout, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(hidden)

    def steps(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Output of the last layer at every step, [B, T, width]; finite and without meaning at padding."""
        h_BTH = self.project(zero_padding(x_BTD, lengths_B))
        h_BTH = self.dropout(h_BTH + sinusoidal_positions(h_BTH.shape[1], self.width).to(h_BTH))
        # Over no key at all torch's inference kernel gives NaN: an empty row attends to a step of zeros.
        padding = ~step_mask(lengths_B.clamp(min=1), x_BTD.shape[1])
        for layer in self.layers:
            h_BTH = layer(h_BTH, src_key_padding_mask=padding)
        return self.norm(h_BTH)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """[B, T, D] → [B, H]; zeros for a row of length 0."""
        return masked_mean(self.steps(x_BTD, lengths_B), lengths_B)


def sinusoidal_positions(steps: int, width: int) -> Tensor:
    """[T, H] float32: p[t, 2i] = sin(t / 10000^(2i/H)), p[t, 2i+1] = cos of it (Vaswani et al. 2017)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(steps)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
