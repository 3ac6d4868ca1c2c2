"""What holds for every fusion with every encoder."""

import itertools

import pytest
import torch

from mmray.config import ModelConfig
from mmray.fusion.build import ModalityShape, build_model
from mmray.fusion.model import FusionModel
from mmray.fusion.steps import step_mask

SHAPES = {
    "audio": ModalityShape("vectors", 3),
    "pose": ModalityShape("vectors", 2),
    "type": ModalityShape("words", 10),
    "video": ModalityShape("vectors", 4),
}
OUTPUTS = {"label": 3, "values": 1}  # both `type` and `values` are attributes of modules
PRIORS = {"label": torch.tensor([-1.0, -2.0, -0.7]), "values": torch.tensor([0.25])}
ROWS, STEPS = 7, 5

SMALL = {"hidden": 8, "dropout": 0.0}
FUSIONS = {
    "late": {},
    "concat": SMALL,
    "weighted": SMALL,
    "tensor": SMALL,
    "low_rank": SMALL,
    "sequence": SMALL,
    "sequence transformer": {**SMALL, "cell": "transformer", "heads": 2, "readout": "attention"},
    "spatial": {**SMALL, "cells": 3},
    "cross_attention": {**SMALL, "heads": 2, "readout": "at_zero"},
    "bottleneck": {**SMALL, "heads": 2, "readout": "last"},
}
ENCODERS = {
    "mlp": {"kind": "mlp", "hidden": 4, "dropout": 0.0},
    "identity": {"kind": "identity", "readout": "attention"},
    "gru": {"kind": "gru", "hidden": 2, "bidirectional": True, "dropout": 0.0},
    "lstm": {"kind": "lstm", "hidden": 4, "dropout": 0.0, "readout": "at_zero"},
    "transformer": {"kind": "transformer", "hidden": 4, "heads": 2, "dropout": 0.0},
    "conv": {"kind": "conv", "hidden": 4, "center": True, "dropout": 0.0, "readout": "attention"},
}
MIXED: dict[str, str] = dict(zip(SHAPES, ("lstm", "conv", "identity", "transformer"), strict=True))

Batch = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]


def make_model(fusion: str, encoders: dict[str, str] = MIXED, **settings) -> FusionModel:
    torch.manual_seed(0)
    config = {
        "fusion": {"kind": fusion.split()[0], **FUSIONS[fusion]},
        "encoders": {name: ENCODERS[kind] for name, kind in encoders.items()},
        "embedding": 4,
        **settings,
    }
    shapes = {name: SHAPES[name] for name in encoders}
    model = build_model(ModelConfig.model_validate(config), shapes, OUTPUTS)
    model.set_statistics({}, PRIORS)
    return model


def make_batch() -> Batch:
    """Row 0 has nothing; zeros at padding."""
    generator = torch.Generator().manual_seed(1)
    inputs, lengths, times = {}, {}, {}
    for name, shape in SHAPES.items():
        lengths[name] = torch.randint(0, STEPS + 1, (ROWS,), generator=generator)
        lengths[name][:2] = torch.tensor([0, STEPS])
        mask = step_mask(lengths[name], STEPS)
        times[name] = (torch.rand(ROWS, STEPS, generator=generator).cumsum(1) - 1.0) * mask
        if shape.kind == "words":
            inputs[name] = torch.randint(0, 10, (ROWS, STEPS), generator=generator) * mask
        else:
            inputs[name] = torch.randn(ROWS, STEPS, shape.size, generator=generator) * mask[..., None]
    return inputs, lengths, times


def flat(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([outputs[name] for name in sorted(outputs)], dim=1)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture(params=FUSIONS)
def fusion(request) -> str:
    return request.param


@pytest.mark.parametrize("encoder", ENCODERS)
def test_padding_and_absent_modalities_change_no_bit_of_outputs_and_gradients(fusion, encoder: str):
    model = make_model(fusion, dict.fromkeys(SHAPES, encoder))
    inputs, lengths, times = make_batch()
    results = []
    for garbage in (0.0, 1e9, torch.nan):
        spoilt, spoilt_times = {}, {}
        for name, x in inputs.items():
            padding = ~step_mask(lengths[name], STEPS)
            spoilt_times[name] = times[name].masked_fill(padding, garbage)
            if x.is_floating_point():
                spoilt[name] = x.masked_fill(padding[..., None], garbage).requires_grad_()
            else:
                spoilt[name] = x.masked_fill(padding, 9 if garbage else 0)
        model.zero_grad()
        outputs = flat(model(spoilt, lengths, spoilt_times))
        outputs.square().sum().backward()
        of_inputs = [x.grad for x in spoilt.values() if x.is_floating_point()]
        results.append([outputs.detach(), *of_inputs, *(p.grad for p in model.parameters())])
    assert all(torch.isfinite(tensor).all() for tensor in results[0])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    for name, x in spoilt.items():
        if x.is_floating_point():
            assert not x.grad[~step_mask(lengths[name], STEPS)].any()
            assert x.grad[1].any()


@pytest.mark.parametrize("n_modalities", [1, 2, 3, 4])
def test_every_parameter_takes_part_in_every_pattern_of_presence(fusion, n_modalities):
    names = sorted(SHAPES)[:n_modalities]
    model = make_model(fusion, {name: MIXED[name] for name in names})
    inputs, _, times = make_batch()
    for pattern in itertools.product([0, STEPS], repeat=n_modalities):
        lengths = {name: torch.full((ROWS,), steps) for name, steps in zip(names, pattern, strict=True)}
        model.zero_grad()
        outputs = model(inputs, lengths, times)
        flat(outputs).sum().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
        assert all(outputs[target].shape == (ROWS, width) for target, width in OUTPUTS.items())
        if not any(pattern):
            assert all(torch.equal(y, PRIORS[name].expand_as(y)) for name, y in outputs.items())


def test_an_absent_modality_is_missed(fusion):
    model = make_model(fusion).eval()
    inputs, lengths, times = make_batch()
    expected = flat(model(inputs, lengths, times))
    for name in SHAPES:
        hidden = flat(model(inputs, {**lengths, name: torch.zeros_like(lengths[name])}, times))
        had = lengths[name] > 0
        close(hidden[~had], expected[~had])
        assert ((hidden - expected)[had].abs().amax(1) > 1e-5).all()


def test_a_row_does_not_see_its_neighbours_nor_the_order_of_anything(fusion):
    model = make_model(fusion).eval()
    inputs, lengths, times = make_batch()
    expected = flat(model(inputs, lengths, times))
    assert torch.equal(flat(model(inputs, lengths, times)), expected)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    permuted = ({name: x[order] for name, x in part.items()} for part in (inputs, lengths, times))
    close(flat(model(*permuted)), expected[order])
    backwards = ({name: part[name] for name in reversed(part)} for part in (inputs, lengths, times))
    assert torch.equal(flat(model(*backwards)), expected)
    for row in range(ROWS):
        steps = {name: max(int(lengths[name][row]), 1) for name in SHAPES}
        alone = (
            {name: x[row : row + 1, : steps[name]] for name, x in inputs.items()},
            {name: x[row : row + 1] for name, x in lengths.items()},
            {name: x[row : row + 1, : steps[name]] for name, x in times.items()},
        )
        close(flat(model(*alone)), expected[row : row + 1])


def test_weights_come_back_from_a_state_dict(fusion):
    batch = make_batch()
    model = make_model(fusion).eval()
    expected = flat(model(*batch))
    with torch.random.fork_rng():
        other = make_model(fusion).eval()
        for parameter in other.parameters():
            torch.nn.init.normal_(parameter)
    assert not torch.allclose(flat(other(*batch))[1:], expected[1:])
    other.load_state_dict(model.state_dict())
    assert torch.equal(flat(other(*batch)), expected)


def test_modality_dropout_leaves_each_row_one_modality_as_if_it_had_no_other(fusion):
    model = make_model(fusion, modality_dropout=1.0)
    inputs, lengths, times = make_batch()
    dropped = flat(model.train()(inputs, lengths, times))
    nothing = {name: torch.zeros_like(steps) for name, steps in lengths.items()}
    model.eval()
    singles = torch.stack([flat(model(inputs, {**nothing, name: lengths[name]}, times)) for name in SHAPES])
    present = torch.stack([lengths[name] > 0 for name in SHAPES])
    same = torch.isclose(dropped, singles, rtol=1e-4, atol=1e-5).all(-1) & present
    assert same.any(0)[1:].all()


def test_the_times_of_steps_reach_the_fusions_that_use_them(fusion):
    model = make_model(fusion, dict.fromkeys(SHAPES, "mlp")).eval()
    inputs, lengths, times = make_batch()
    others = {**times, "audio": times["audio"].flip(0) + 2.5}
    difference = flat(model(inputs, lengths, times)) - flat(model(inputs, lengths, others))
    timed = fusion in ("sequence", "sequence transformer", "spatial", "cross_attention")
    assert bool(difference.any()) == timed
