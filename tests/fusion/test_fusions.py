import numpy as np
import pytest
import torch

from mmray.errors import ConfigError
from mmray.fusion.fusions import ConcatFusion, LateFusion, LowRankFusion, TensorFusion, WeightedFusion
from mmray.fusion.heads import FusedHeads, Heads

WIDTHS = {"audio": 3, "text": 5, "video": 4}
OUTPUTS = {"label": 3, "type": 1}  # `type` is also an attribute of every module


def random_inputs(rows: int = 6) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    vectors = {name: torch.randn(rows, width) for name, width in WIDTHS.items()}
    present = {name: torch.arange(rows) % (i + 2) > 0 for i, name in enumerate(WIDTHS)}
    return vectors, present  # row 0 has no modality


FUSIONS = {
    "concat": lambda: FusedHeads(ConcatFusion(WIDTHS, 7), Heads(7, OUTPUTS)),
    "late": lambda: LateFusion(WIDTHS, OUTPUTS),
    "weighted": lambda: FusedHeads(WeightedFusion(WIDTHS, 7), Heads(7, OUTPUTS)),
    "tensor": lambda: FusedHeads(TensorFusion(WIDTHS, 7), Heads(7, OUTPUTS)),
    "low_rank": lambda: FusedHeads(LowRankFusion(WIDTHS, 7, rank=3), Heads(7, OUTPUTS)),
}


@pytest.fixture(params=FUSIONS)
def fusion(request) -> torch.nn.Module:
    torch.manual_seed(1)
    return FUSIONS[request.param]()


@pytest.mark.parametrize("garbage", [1e9, torch.nan])
def test_the_vector_of_an_absent_modality_never_matters(fusion, garbage):
    vectors, present = random_inputs()
    spoilt = {name: torch.where(present[name][:, None], v, garbage) for name, v in vectors.items()}
    expected, outputs = fusion(vectors, present), fusion(spoilt, present)
    for target, width in OUTPUTS.items():
        assert outputs[target].shape == (6, width)
        assert torch.equal(outputs[target], expected[target])


def test_presence_itself_matters(fusion):
    vectors, present = random_inputs()
    everything = {name: torch.ones(6, dtype=torch.bool) for name in WIDTHS}
    a, b = fusion(vectors, present)["label"], fusion(vectors, everything)["label"]
    complete = torch.stack(list(present.values())).all(0)
    assert torch.equal(a[complete], b[complete])
    assert ((a - b)[~complete].abs().amax(1) > 1e-4).all()


def test_every_parameter_takes_part_whatever_is_absent(fusion):
    vectors, _ = random_inputs()
    for state in (True, False):
        fusion.zero_grad()
        outputs = fusion(vectors, {name: torch.full((6,), state) for name in WIDTHS})
        torch.cat(list(outputs.values()), dim=1).sum().backward()
        assert all(p.grad is not None for p in fusion.parameters())


def test_concat_is_its_formula():
    fusion = ConcatFusion(WIDTHS, 7)
    for name in WIDTHS:
        torch.nn.init.normal_(fusion.absent[name].value)
    vectors, present = random_inputs()
    for row in range(6):
        z = [vectors[m][row] if present[m][row] else fusion.absent[m].value for m in sorted(WIDTHS)]
        expected = (fusion.linear.weight @ torch.cat(z) + fusion.linear.bias).clamp(min=0)
        torch.testing.assert_close(fusion(vectors, present)[row], expected)


def test_concat_holds_xor_of_two_modalities():
    """One hidden layer over both: y = relu(a + b) - 2 relu(a + b - 1) is XOR of bits a, b."""
    fusion, head = ConcatFusion({"a": 1, "b": 1}, 2), torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        fusion.linear.weight.fill_(1.0)
        fusion.linear.bias.copy_(torch.tensor([0.0, -1.0]))
        head.weight.copy_(torch.tensor([[1.0, -2.0]]))
    a, b = torch.tensor([[0.0], [0], [1], [1]]), torch.tensor([[0.0], [1], [0], [1]])
    seen = torch.ones(4, dtype=torch.bool)
    y = head(fusion({"a": a, "b": b}, {"a": seen, "b": seen}))
    assert y[:, 0].tolist() == [0, 1, 1, 0]


def test_late_can_only_add_and_so_never_holds_xor():
    fusion = LateFusion({"a": 1, "b": 1}, {"y": 1})
    a, b = torch.tensor([[0.0], [0], [1], [1]]), torch.tensor([[0.0], [1], [0], [1]])
    seen = torch.ones(4, dtype=torch.bool)
    y = fusion({"a": a, "b": b}, {"a": seen, "b": seen})["y"][:, 0]
    assert (y[0] + y[3]).item() == pytest.approx((y[1] + y[2]).item(), abs=1e-6)


def test_late_is_the_mean_over_the_present():
    fusion = LateFusion(WIDTHS, OUTPUTS)
    vectors, present = random_inputs()
    outputs = fusion(vectors, present)
    for target, width in OUTPUTS.items():
        for row in range(6):
            single = [fusion.heads[m].targets[target](vectors[m][row]) for m in WIDTHS if present[m][row]]
            expected = torch.stack(single).mean(0) if single else torch.zeros(width)
            torch.testing.assert_close(outputs[target][row], expected)


def test_late_classes_follow_the_geometric_mean_of_probabilities():
    fusion = LateFusion(WIDTHS, OUTPUTS)
    vectors, _ = random_inputs()
    seen = {name: torch.ones(6, dtype=torch.bool) for name in WIDTHS}
    p = [fusion.heads[m].targets["label"](vectors[m]).softmax(1) for m in WIDTHS]
    product = (p[0] * p[1] * p[2]) ** (1 / 3)
    expected = product / product.sum(1, keepdim=True)
    torch.testing.assert_close(fusion(vectors, seen)["label"].softmax(1), expected)


def test_gates_of_two_modalities_are_the_papers_sigmoid_and_its_complement():
    torch.manual_seed(0)
    widths = {"a": 3, "b": 4}
    fusion = WeightedFusion(widths, 5)
    h = {name: torch.randn(6, width) for name, width in widths.items()}
    seen = torch.ones(6, dtype=torch.bool)
    with torch.no_grad():
        everything = torch.cat([h["a"], h["b"]], dim=1).numpy()
        score = {m: everything @ fusion.gates[m].weight.numpy().T + fusion.gates[m].bias.numpy() for m in h}
        v = {
            m: np.tanh(h[m].numpy() @ fusion.values[m].weight.numpy().T + fusion.values[m].bias.numpy())
            for m in h
        }
        gate = 1 / (1 + np.exp(score["b"] - score["a"]))
        y = fusion(h, {"a": seen, "b": seen})
        np.testing.assert_allclose(y, gate * v["a"] + (1 - gate) * v["b"], rtol=1e-4, atol=1e-6)


def test_gates_add_up_over_what_is_present():
    """Row by row, with a softmax of each unit's scores written out."""
    fusion = WeightedFusion(WIDTHS, 7)
    vectors, present = random_inputs()
    y = fusion(vectors, present)
    for row in range(6):
        here = [m for m in WIDTHS if present[m][row]]
        x = torch.cat([vectors[m][row] if m in here else torch.zeros(w) for m, w in WIDTHS.items()])
        odds = {m: (fusion.gates[m].weight @ x + fusion.gates[m].bias).exp() for m in here}
        total = sum(odds.values())
        values = {m: (fusion.values[m].weight @ vectors[m][row] + fusion.values[m].bias).tanh() for m in here}
        expected = sum((odds[m] / total * values[m] for m in here), torch.zeros(7))
        torch.testing.assert_close(y[row], expected, rtol=1e-5, atol=1e-6)


def test_tensor_is_the_outer_product_of_the_present():
    fusion = TensorFusion(WIDTHS, 7)
    vectors, present = random_inputs()
    weight, bias = fusion.linear.weight.detach().numpy(), fusion.linear.bias.detach().numpy()
    y = fusion(vectors, present).detach().numpy()
    for row in range(6):
        z = np.ones(1)
        for name in sorted(WIDTHS):
            z = np.kron(z, [*(vectors[name][row] * present[name][row]).tolist(), 1.0])
        np.testing.assert_allclose(y[row], np.maximum(weight @ z + bias, 0), rtol=1e-4, atol=1e-5)


def test_low_rank_is_the_tensor_fusion_of_its_reconstructed_weights():
    torch.manual_seed(0)
    low_rank, tensor = LowRankFusion(WIDTHS, 7, rank=3), TensorFusion(WIDTHS, 7)
    factors = [low_rank.factors[name].weight for name in sorted(WIDTHS)]  # [rank, 7, width + 1] each
    with torch.no_grad():
        tensor.linear.weight.copy_(torch.einsum("rfa,rft,rfv->fatv", *factors).flatten(1))
        tensor.linear.bias.copy_(low_rank.bias.normal_())
    vectors, present = random_inputs()
    torch.testing.assert_close(low_rank(vectors, present), tensor(vectors, present), rtol=1e-4, atol=1e-5)


def test_a_tensor_too_large_is_refused_with_the_arithmetic():
    widths = {"audio": 127, "text": 127, "video": 127}
    with pytest.raises(ConfigError, match=r"\(127 \+ 1\) x .* = 2,097,152 numbers.*low_rank"):
        TensorFusion(widths, 64)
    TensorFusion(widths, 2)  # 4 million weights
