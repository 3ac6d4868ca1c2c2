import pytest
import torch

from mmray.config import ModelConfig
from mmray.fusion.build import ModalityShape, build_model
from mmray.fusion.model import UNKNOWN, FusionModel

SHAPES = {
    "video": ModalityShape("vectors", 4),
    "audio": ModalityShape("vectors", 3),
    "type": ModalityShape("words", 10),
}
OUTPUTS = {"label": 3, "values": 1}  # both `type` and `values` are attributes of modules


def config(kind: str, encoder: str = "mlp", **settings) -> ModelConfig:
    encoders = {name: {"kind": encoder, "hidden": 8} for name in SHAPES}
    return ModelConfig.model_validate({"fusion": {"kind": kind}, "encoders": encoders, **settings})


def batch(rows: int = 8, steps: int = 5) -> tuple[dict[str, torch.Tensor], ...]:
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "audio": torch.randn(rows, steps, 3, generator=generator),
        "type": torch.randint(0, 10, (rows, steps), generator=generator),
        "video": torch.randn(rows, steps, 4, generator=generator),
    }
    lengths = {name: torch.randint(0, steps + 1, (rows,), generator=generator) for name in sorted(SHAPES)}
    for name in lengths:
        lengths[name][0] = 0
    return inputs, lengths, dict.fromkeys(inputs, torch.arange(steps).float().expand(rows, steps))


@pytest.fixture(params=["concat", "late"])
def kind(request) -> str:
    return request.param


def test_with_nothing_present_the_output_is_the_prior(kind):
    model = build_model(config(kind), SHAPES, OUTPUTS).eval()
    priors = {"label": torch.tensor([-1.0, -2.0, -0.7]), "values": torch.tensor([0.25])}
    model.set_statistics({}, priors)
    outputs = model(*batch())
    for target, prior in priors.items():
        assert torch.equal(outputs[target][0], prior)  # row 0 has no modality
        assert not torch.isclose(outputs[target][1:], prior).all(1).any()


def test_standardisation_undoes_scale_and_shift_of_the_features(kind):
    torch.manual_seed(0)
    model = build_model(config(kind), SHAPES, OUTPUTS).eval()
    inputs, lengths, times = batch()
    expected = model(inputs, lengths, times)["label"]
    mean, std = torch.tensor([5.0, -1, 0]), torch.tensor([2.0, 0.5, 10])
    model.set_statistics({"audio": (mean, std)}, {})
    moved = {**inputs, "audio": inputs["audio"] * std + mean}
    torch.testing.assert_close(model(moved, lengths, times)["label"], expected, rtol=1e-4, atol=1e-5)
    restored = build_model(config(kind), SHAPES, OUTPUTS).eval()
    restored.load_state_dict(model.state_dict())
    assert torch.equal(restored(moved, lengths, times)["label"], model(moved, lengths, times)["label"])


def test_an_unknown_word_starts_as_nothing():
    model = build_model(config("concat"), {"type": SHAPES["type"]}, OUTPUTS).eval()
    inputs = {"type": torch.tensor([[3, UNKNOWN, 0], [3, 0, 0]])}
    embedded = model.inputs["type"](inputs["type"])
    assert torch.equal(embedded[0], embedded[1])


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_modality_dropout_hides_at_its_rate_but_never_everything(rate):
    """With n present modalities each is seen with probability 1 - rate + rate^n / n."""
    torch.manual_seed(0)
    seen: list[torch.Tensor] = []

    class Spy(torch.nn.Module):
        takes = "vectors"

        def forward(self, vectors, present):
            seen.append(torch.stack(list(present.values()), dim=1))
            return {"y": torch.zeros(len(present["a"]), 1)}

    class Mean(torch.nn.Module):
        def forward(self, x, lengths, times):
            return x.mean(1)

    names = ["a", "b", "c"]
    model = FusionModel(
        {name: torch.nn.Identity() for name in names}, {name: Mean() for name in names}, Spy(), {"y": 1}, rate
    )
    rows = 20_000
    lengths = {name: torch.full((rows,), 2) for name in names}
    lengths["c"][rows // 2 :] = 0
    inputs = {name: torch.zeros(rows, 2, 1) for name in names}
    times = {name: torch.zeros(rows, 2) for name in names}
    model.train()(inputs, lengths, times)
    model.eval()(inputs, lengths, times)
    trained, evaluated = seen
    present = torch.stack([lengths[name] > 0 for name in names], dim=1)
    assert torch.equal(evaluated, present)
    assert trained.any(1).all()
    assert not (trained & ~present).any()
    half = rows // 2
    for part, n in ((trained[:half], 3), (trained[half:, :2], 2)):
        expected = 1 - rate + rate**n / n
        assert part.float().mean(0).tolist() == pytest.approx([expected] * n, abs=0.02)


def test_the_default_encoder_is_an_mlp_and_unused_encoder_settings_are_no_fault():
    model = build_model(config("concat", "gru"), {"video": SHAPES["video"]}, OUTPUTS)
    assert model.modalities == ["video"]
    plain = build_model(ModelConfig(), {"video": SHAPES["video"]}, OUTPUTS)
    assert type(plain.encoders["video"]).__name__ == "PooledMLP"
