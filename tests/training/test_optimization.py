"""Options of training against closed forms, plain AdamW and themselves."""

import math

import numpy as np
import pytest
import torch

from mmray.config import ModelConfig, TrainConfig
from mmray.errors import PlanError
from mmray.fusion.build import ModalityShape, build_model
from mmray.fusion.heads import Thresholds
from mmray.training.batches import FeatureSet
from mmray.training.loop import fit
from mmray.training.optimization import MAX_SKIPPED, Optimization, rate_factor

FEATURES = ["audio", "video", "words"]
HIDDEN = {"hidden": 8, "dropout": 0.0}
MODEL = ModelConfig.model_validate(
    {
        "encoders": {
            "audio": {"kind": "gru", **HIDDEN},
            "video": {"kind": "mlp", **HIDDEN},
            "words": {"kind": "transformer", **HIDDEN},
        },
        "fusion": {"kind": "concat", **HIDDEN},
        "embedding": 8,
    }
)


@pytest.fixture(scope="module")
def data(make_table, targets) -> FeatureSet:
    return FeatureSet.load(make_table(150), FEATURES, targets)


def train_config(**settings) -> TrainConfig:
    return TrainConfig(**{"learning_rate": 5e-3, "batch_size": 16, "epochs": 2, **settings})


@pytest.mark.parametrize(
    ("schedule", "fall"),
    [
        ("constant", lambda p: 1.0),
        ("linear", lambda p: 1 - p),
        ("cosine", lambda p: math.cos(math.pi * p / 2) ** 2),
    ],
)
def test_schedules_are_their_closed_forms(schedule, fall):
    for t in range(100):
        expected = (t + 1) / 20 if t < 20 else fall((t - 20) / 80)
        assert rate_factor(t, 100, 20, schedule) == pytest.approx(expected)
        assert rate_factor(t, 100, 0, schedule) == pytest.approx(fall(t / 100))


def test_steps_are_those_of_adamw_with_that_rate():
    torch.manual_seed(0)
    ours, plain = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    plain.load_state_dict(ours.state_dict())
    schedule = {"steps": 10, "warmup": 2.0, "schedule": "cosine"}
    tested = Optimization(ours, "cpu", **schedule, learning_rate=0.1, weight_decay=0.1, clip_norm=0.5)
    groups = [
        {"params": [plain.weight], "weight_decay": 0.1},
        {"params": [plain.bias], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=0.1)
    for step in range(10):
        x = torch.randn(4, 3)
        tested.backward(ours(x).square().sum())
        assert tested.step(step)
        adamw.zero_grad()
        plain(x).square().sum().backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        for group in adamw.param_groups:
            group["lr"] = 0.1 * rate_factor(step, **schedule)
        adamw.step()
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_only_the_matrices_of_layers_decay():
    """Without a gradient AdamW does nothing but decay: what moved in such a step is what decays."""
    widths = {"mood": 2, "grade": Thresholds(2)}
    shapes = {"audio": ModalityShape("vectors", 3), "words": ModalityShape("words", 9)}
    config = {
        "encoders": {"audio": {"kind": "lstm", "hidden": 8}, "words": {"kind": "transformer", "hidden": 8}},
        "fusion": {"kind": "bottleneck", "hidden": 8},
        "embedding": 8,
    }
    model = build_model(ModelConfig.model_validate(config), shapes, widths, learned_weights=True)
    for parameter in model.parameters():
        torch.nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    Optimization(model, "cpu", steps=9, learning_rate=0.1, weight_decay=0.5).step(0)
    moved = {name for name, weights in model.named_parameters() if (weights != 1).any()}
    still = {name for name, _ in model.named_parameters()} - moved
    norms = {n for n, m in model.named_modules() if isinstance(m, torch.nn.LayerNorm)}
    kept = {f"{norm}.weight" for norm in norms} | {n for n, _ in model.named_parameters() if "bias" in n}
    kept |= {n for n, _ in model.named_parameters() if n.startswith("log_variance")}
    kept |= {"inputs.words_.weight", "fusion.fusion.tokens.weight"}
    kept |= {"fusion.heads.targets.grade_.first", "fusion.heads.targets.grade_.steps"}
    assert still == kept
    assert "fusion.heads.targets.mood_.weight" in moved


def test_float16_gives_up_on_a_loss_that_is_never_finite_and_lives_through_a_few():
    model = torch.nn.Linear(3, 1)
    tested = Optimization(model, "cpu", steps=200, learning_rate=0.1)
    tested.scaler = torch.GradScaler("cpu")  # as of precision float16, which itself needs a GPU

    def step(number: int, factor: float) -> bool:
        tested.backward(model(torch.ones(2, 3)).sum() * factor)
        return tested.step(number)

    before = model.weight.clone()
    assert all(step(i, math.nan) for i in range(MAX_SKIPPED - 1))
    assert torch.equal(model.weight, before)
    assert step(30, 1.0)
    assert not torch.equal(model.weight, before)
    assert [step(40 + i, math.inf) for i in range(MAX_SKIPPED)] == [True] * (MAX_SKIPPED - 1) + [False]


@pytest.mark.parametrize("accumulate", [2, 5, 100])
def test_a_batch_in_parts_is_the_same_step(data, targets, accumulate):
    whole = fit(MODEL, train_config(), data, FEATURES, targets)
    parts = fit(MODEL, train_config(accumulate=accumulate), data, FEATURES, targets)
    for name, weights in whole.snapshot.current.items():
        keep = torch.ones(len(weights), dtype=torch.bool)
        if name.endswith("in_proj_bias"):  # that of keys has no gradient but rounding noise
            keep[len(weights) // 3 : 2 * len(weights) // 3] = False
        torch.testing.assert_close(weights[keep], parts.snapshot.current[name][keep], rtol=1e-4, atol=1e-5)
    losses = [epoch["train_loss"] for epoch in whole.history]
    assert [epoch["train_loss"] for epoch in parts.history] == pytest.approx(losses, rel=1e-4)


def test_bfloat16_is_near_float32_and_leaves_float32_weights(data, targets):
    exact = fit(MODEL, train_config(), data, FEATURES, targets)
    rough = fit(MODEL, train_config(precision="bfloat16"), data, FEATURES, targets)
    losses = [epoch["train_loss"] for epoch in exact.history]
    near = [epoch["train_loss"] for epoch in rough.history]
    assert near == pytest.approx(losses, rel=0.02)
    assert near != losses
    assert {weights.dtype for weights in rough.snapshot.weights.values()} == {torch.float32}


def test_float16_without_a_gpu_is_refused(data, targets):
    with pytest.raises(PlanError, match="float16 needs a GPU"):
        fit(MODEL, train_config(precision="float16"), data, FEATURES, targets)


def test_a_resumed_run_keeps_its_schedule(data, targets, tmp_path):
    config = train_config(epochs=4, schedule="cosine", warmup_epochs=1.5)

    def save_second(metrics, save):
        if metrics["epoch"] == 2:
            save(tmp_path)

    straight = fit(MODEL, config, data, FEATURES, targets, report=save_second)
    resumed = fit(MODEL, config, data, FEATURES, targets, resume=tmp_path)
    for name, weights in straight.snapshot.current.items():
        assert torch.equal(weights, resumed.snapshot.current[name])
    moved = [
        np.abs(straight.history[i]["train_loss"] - straight.history[i + 1]["train_loss"]) for i in (0, 2)
    ]
    assert moved[0] > 0 < moved[1]
