import pytest
import torch

from mmray.fusion.fusions import ConcatFusion, LateFusion
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
