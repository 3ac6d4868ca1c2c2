"""Fusions over steps against NumPy, row by row and without padding."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mmray.fusion.attention import AttentionBlock
from mmray.fusion.crossing import BottleneckFusion, CrossAttentionFusion
from mmray.fusion.encoders import Recurrent, Transformer, sinusoidal_positions
from mmray.fusion.grid import SpatialFusion, cell_means, cells_of
from mmray.fusion.readouts import Mean
from mmray.fusion.sequence import SequenceFusion, merge
from mmray.fusion.steps import Steps, step_mask

WIDTHS = {"audio": 3, "text": 5, "video": 4}
LENGTHS = {"audio": [6, 1, 0, 4, 0], "text": [2, 4, 3, 0, 0], "video": [3, 2, 5, 3, 0]}
ROWS, HIDDEN = 5, 8
MIXED = [0, 1, 2, 3]  # the rows with some modality

Arrays = dict[str, np.ndarray]


@pytest.fixture
def steps() -> dict[str, Steps]:
    """Times on a coarse grid, so that many are equal; NaN at padding."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, width in WIDTHS.items():
        mask = step_mask(torch.tensor(LENGTHS[name]), 6)
        values = torch.randn(ROWS, 6, width, generator=generator)
        times = torch.randint(-3, 4, (ROWS, 6), generator=generator).sort(dim=1).values / 2
        made[name] = Steps(
            values.masked_fill(~mask[..., None], torch.nan), mask, times.masked_fill(~mask, torch.nan)
        )
    return made


def row_of(steps: dict[str, Steps], row: int) -> tuple[Arrays, Arrays]:
    """{m: values [T, H]} and {m: times [T]} of a row, without padding."""
    values = {m: s.values_BTH[row, : LENGTHS[m][row]].numpy() for m, s in steps.items()}
    return values, {m: s.times_BT[row, : LENGTHS[m][row]].numpy() for m, s in steps.items()}


def linear(layer: Any, x: np.ndarray) -> np.ndarray:
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def layer_norm(norm: Any, x: np.ndarray) -> np.ndarray:
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return scaled * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def attention_block(block: Any, z: np.ndarray, x: np.ndarray) -> np.ndarray:
    """[S, H] and [T, H] → [S, H], head by head and query by query."""
    z_norm, x_norm = layer_norm(block.norm, z), layer_norm(block.norm, x)
    q, k, v = linear(block.query, z_norm), linear(block.key, x_norm), linear(block.value, x_norm)
    attended = np.zeros_like(z)
    size = z.shape[1] // block.heads
    for head in range(block.heads):
        part = slice(head * size, (head + 1) * size)
        for s in range(len(z)):
            odds = np.exp(k[:, part] @ q[s, part] / np.sqrt(size))
            attended[s, part] = odds / odds.sum() @ v[:, part] if len(x) else 0
    u = z + (linear(block.out, attended) if len(x) else 0)
    return u + linear(block.mlp[4], np.maximum(linear(block.mlp[1], layer_norm(block.mlp[0], u)), 0))


def positioned(projection: Any, x: np.ndarray) -> np.ndarray:
    z = linear(projection.project.linear, x)
    return z + sinusoidal_positions(len(z), z.shape[1]).numpy()


def close(y: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_merged_steps_are_in_the_order_of_pythons_sorted(steps):
    numbered = [
        s._replace(values_BTH=100.0 * m + torch.arange(6.0).expand(ROWS, 6)[..., None])
        for m, s in enumerate(steps.values())
    ]
    merged = merge(numbered)
    for row in range(ROWS):
        _, times = row_of(steps, row)
        expected = sorted((t, m, i) for m, name in enumerate(WIDTHS) for i, t in enumerate(times[name]))
        assert merged.mask_BT[row].tolist() == [i < len(expected) for i in range(18)]
        assert merged.values_BTH[row, : len(expected), 0].tolist() == [100 * m + i for _, m, i in expected]
        assert merged.times_BT[row, : len(expected)].tolist() == [t for t, _, _ in expected]


@pytest.mark.parametrize("cell", ["lstm", "transformer"])
def test_sequence_is_its_model_on_the_sorted_steps(steps, cell):
    torch.manual_seed(0)
    model = Recurrent(HIDDEN, HIDDEN, cell="lstm") if cell == "lstm" else Transformer(HIDDEN, HIDDEN, heads=2)
    fusion = SequenceFusion(WIDTHS, HIDDEN, model)
    y = fusion(steps)
    for row in MIXED:
        values, times = row_of(steps, row)
        order = sorted((t, name, i) for name in WIDTHS for i, t in enumerate(times[name]))
        u = np.stack([linear(fusion.project[name].linear, values[name][i]) for _, name, i in order])
        alone = torch.from_numpy(u)[None]
        if isinstance(model, Recurrent):
            expected = model.rnn(alone)[1][0][-1, 0]
        else:
            h = model.project(alone) + sinusoidal_positions(len(u), HIDDEN)
            expected = model.norm(model.layers[0](h))[0].mean(0)
        close(y[row], expected.detach().numpy())


def test_cells_hold_the_means_of_their_steps(steps):
    cells = cells_of(list(steps.values()), 3)
    grids = [cell_means(s, cell, 3) for s, cell in zip(steps.values(), cells, strict=True)]
    for row in MIXED:
        values, times = row_of(steps, row)
        everything = np.concatenate(list(times.values()))
        edges = np.linspace(everything.min(), everything.max(), 4)
        for grid, name in zip(grids, WIDTHS, strict=True):
            for g in range(3):
                upper = times[name] <= edges[3] if g == 2 else times[name] < edges[g + 1]
                inside = values[name][(times[name] >= edges[g]) & upper]
                assert grid.mask_BT[row, g] == (len(inside) > 0)
                close(grid.values_BTH[row, g], inside.mean(0) if len(inside) else np.zeros(WIDTHS[name]))


def test_steps_at_one_time_are_one_cell():
    mask = torch.tensor([[True, True, False]])
    steps = Steps(torch.tensor([[[1.0], [3], [9]]]), mask, torch.full((1, 3), 2.5))
    grid = cell_means(steps, cells_of([steps], 4)[0], 4)
    assert grid.mask_BT.tolist() == [[True, False, False, False]]
    assert grid.values_BTH[0, 0].tolist() == [2.0]


def test_spatial_mixes_as_its_formula(steps):
    torch.manual_seed(0)
    fusion = SpatialFusion(WIDTHS, HIDDEN, cells=3, layers=2)
    cells = cells_of([steps[name] for name in WIDTHS], 3)
    y = fusion(steps)
    gelu = nn.functional.gelu
    layers: Any = fusion.layers
    for row in MIXED:
        tokens, filled = [], []
        for name, cell in zip(WIDTHS, cells, strict=True):
            grid = cell_means(steps[name], cell, 3)
            filled += grid.mask_BT[row].tolist()
            tokens.append(linear(fusion.project[name].linear, grid.values_BTH[row].numpy()))
        mask = np.array(filled)[:, None]
        u = np.concatenate(tokens) * mask
        for layer in layers:
            for norm, mix, axis in (
                (layer.cell_norm, layer.across_cells, 0),
                (layer.unit_norm, layer.across_units, 1),
            ):
                seen = layer_norm(norm, u) * (mask if axis == 0 else 1)
                seen = seen.T if axis == 0 else seen
                mixed = linear(mix[2], gelu(torch.from_numpy(linear(mix[0], seen))).numpy())
                u = u + (mixed.T if axis == 0 else mixed)
            u = u * mask
        close(y[row], (layer_norm(fusion.norm, u) * mask).sum(0) / mask.sum())


def test_attention_block_is_softmax_written_out(steps):
    torch.manual_seed(0)
    block = AttentionBlock(8, heads=2)
    z, x = torch.randn(3, 4, 8), torch.randn(3, 6, 8)
    lengths = torch.tensor([6, 2, 0])
    y = block(z, x, step_mask(lengths, 6))
    for row, length in enumerate(lengths.tolist()):
        close(y[row], attention_block(block, z[row].numpy(), x[row, :length].numpy()))


@pytest.mark.parametrize("names", [["video"], ["audio", "video"], ["audio", "text", "video"]])
def test_cross_attention_attends_pair_by_pair(steps, names):
    torch.manual_seed(0)
    widths = {name: WIDTHS[name] for name in names}
    fusion = CrossAttentionFusion(widths, HIDDEN, layers=2, heads=2, readout=lambda width: Mean())
    for name in names:
        nn.init.normal_(fusion.concat.absent[name].value)
    y = fusion({name: steps[name] for name in names})
    for row in range(ROWS):
        values, _ = row_of(steps, row)
        z = {name: positioned(fusion.project[name], values[name]) for name in names}
        vectors = []
        for target in names:
            if not len(z[target]):
                vectors.append(fusion.concat.absent[target].value.detach().numpy())
                continue
            crossed = []
            for source in (name for name in names if name != target):
                h = z[target]
                for block in fusion.pairs[target][source]:
                    h = attention_block(block, h, z[source])
                crossed.append(h)
            s = np.concatenate(crossed, axis=1) if crossed else z[target]
            for block in fusion.selves[target]:
                s = attention_block(block, s, s)
            vectors.append(layer_norm(fusion.norms[target], s).mean(0))
        close(y[row], np.maximum(linear(fusion.concat.linear, np.concatenate(vectors)), 0))


@pytest.mark.parametrize("names", [["video"], ["audio", "text", "video"]])
def test_bottleneck_passes_only_the_mean_of_the_tokens(steps, names):
    torch.manual_seed(0)
    widths = {name: WIDTHS[name] for name in names}
    fusion = BottleneckFusion(widths, HIDDEN, layers=3, heads=2, bottlenecks=2, readout=lambda width: Mean())
    y = fusion({name: steps[name] for name in names})
    for row in range(ROWS):
        values, _ = row_of(steps, row)
        z = {name: positioned(fusion.project[name], values[name]) for name in names if len(values[name])}
        tokens = fusion.tokens.weight.detach().numpy()
        for layer in range(3):
            passed = []
            for name in z:
                both = np.concatenate([z[name], tokens])
                both = attention_block(fusion.blocks[name][layer], both, both)
                z[name] = both[:-2]
                passed.append(both[-2:])
            tokens = np.mean(passed, axis=0) if passed else tokens
        vectors = [layer_norm(fusion.norms[name], h).mean(0) for name, h in z.items()]
        close(y[row], np.mean(vectors, axis=0) if vectors else np.zeros(HIDDEN))
