"""Options of training against closed forms, plain AdamW and themselves."""

import math

import numpy as np
import pytest
import torch

from mmray.config import ModelConfig, TrainConfig
from mmray.errors import PlanError
from mmray.training.batches import FeatureSet
from mmray.training.loop import fit
from mmray.training.optimization import Optimization, rate_factor

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
    adamw = torch.optim.AdamW(plain.parameters(), lr=0.1, weight_decay=0.1)
    for step in range(10):
        x = torch.randn(4, 3)
        tested.backward(ours(x).square().sum())
        assert tested.step(step)
        adamw.zero_grad()
        plain(x).square().sum().backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        adamw.param_groups[0]["lr"] = 0.1 * rate_factor(step, **schedule)
        adamw.step()
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=0, atol=0)


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
