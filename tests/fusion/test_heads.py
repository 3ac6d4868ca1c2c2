import pytest
import torch

from mmray.config import ModelConfig
from mmray.fusion.build import ModalityShape, build_model
from mmray.fusion.heads import Heads, OrdinalHead, Thresholds


@pytest.mark.parametrize("thresholds", [2, 6])
def test_ordinal_logits_fall_whatever_the_parameters(thresholds):
    torch.manual_seed(0)
    head = OrdinalHead(4, thresholds)
    x = 100 * torch.randn(50, 4)
    for _ in range(3):
        logits = head(x)
        assert logits.shape == (50, thresholds)
        assert (logits.diff(dim=1) < 0).all()
        # Proportional odds: one direction, so the distances between thresholds are the same in every row.
        gaps = logits.diff(dim=1)
        torch.testing.assert_close(gaps, gaps[:1].expand_as(gaps), rtol=1e-3, atol=1e-3)
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(3 * torch.randn_like(parameter))


def test_at_first_every_level_is_as_likely():
    head = OrdinalHead(4, 6)
    above = head(torch.zeros(1, 4)).sigmoid()[0]
    torch.testing.assert_close(above, torch.arange(6, 0, -1) / 7)


def test_binary_losses_fit_the_shares_of_the_levels():
    """Nothing to see: the thresholds' optimum is the log odds of the shares above them (CORAL's theorem)."""
    head = OrdinalHead(1, 3)
    levels = torch.tensor([0] * 5 + [1] * 3 + [2] * 1 + [3] * 1)[:, None]
    above = (levels > torch.arange(3)).float()
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(torch.zeros(10, 1)), above)
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(
        head(torch.zeros(1, 1)).sigmoid()[0], torch.tensor([0.5, 0.2, 0.1]), atol=1e-3, rtol=0
    )


def test_heads_are_linear_but_for_thresholds():
    heads = Heads(4, {"mood": 3, "rating": Thresholds(6)})
    assert isinstance(heads.targets["mood"], torch.nn.Linear)
    assert isinstance(heads.targets["rating"], OrdinalHead)
    outputs = heads(torch.zeros(2, 4))
    assert {name: tuple(y.shape) for name, y in outputs.items()} == {"mood": (2, 3), "rating": (2, 6)}


@pytest.mark.parametrize("fusion", ["concat", "late", "sequence", "bottleneck"])
def test_unimodal_heads_see_their_modality_only(fusion):
    torch.manual_seed(0)
    shapes = {"face": ModalityShape("vectors", 4), "voice": ModalityShape("vectors", 3)}
    outputs = {"mood": 3, "rating": Thresholds(2)}
    settings = ModelConfig.model_validate({"fusion": {"kind": fusion}, "unimodal_heads": 0.5})
    model = build_model(settings, shapes, outputs, learned_weights=True).eval()
    model.set_statistics({}, {"mood": torch.tensor([-1.0, -2, -3]), "rating": torch.tensor([1.0, -1])})
    inputs = {"face": torch.randn(3, 5, 4), "voice": torch.randn(3, 5, 3)}
    lengths = {"face": torch.tensor([5, 5, 0]), "voice": torch.tensor([5, 0, 0])}
    times = {name: torch.zeros(3, 5) for name in shapes}
    y = model(inputs, lengths, times)
    names = {f"{prefix}{target}" for prefix in ("", "face/", "voice/") for target in outputs}
    assert set(y) == names
    other = model({**inputs, "face": torch.randn(3, 5, 4)}, lengths, times)
    for target in outputs:
        prior = model.get_buffer(f"prior_{target}")
        assert torch.equal(y[f"voice/{target}"], other[f"voice/{target}"])
        assert not torch.equal(y[f"face/{target}"][0], other[f"face/{target}"][0])
        assert torch.equal(y[f"voice/{target}"][1], prior)  # absent there
        assert torch.equal(y[target][2], prior)
        assert (y["face/rating"].diff(dim=1) < 0).all()
    alone = build_model(settings, {"face": shapes["face"]}, outputs)
    assert set(alone({"face": inputs["face"]}, {"face": lengths["face"]}, times)) == set(outputs)


def test_learned_weights_change_no_output():
    torch.manual_seed(0)
    shapes = {"face": ModalityShape("vectors", 4)}
    x, lengths = {"face": torch.randn(3, 5, 4)}, {"face": torch.tensor([5, 5, 0])}
    model = build_model(ModelConfig(), shapes, {"mood": 3}, learned_weights=True).eval()
    before = model(x, lengths, {"face": torch.zeros(x["face"].shape[:2])})["mood"]
    with torch.no_grad():
        model.get_parameter("log_variance_mood").fill_(3.0)
    assert torch.equal(model(x, lengths, {"face": torch.zeros(x["face"].shape[:2])})["mood"], before)
    assert "log_variance_mood" in model.state_dict()
