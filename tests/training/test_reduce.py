"""Principal components against scikit-learn's, from all rows at once and in parts."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from mmray.config import ModelConfig, TrainConfig
from mmray.errors import ConfigError
from mmray.fusion.model import Standardize
from mmray.targets import RegressionTarget
from mmray.training.batches import FeatureSet, Ragged
from mmray.training.loop import fit
from mmray.training.statistics import Moments


def drawn(n: int = 400) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(n, 3)) @ rng.normal(size=(3, 6)) + 0.1 * rng.normal(size=(n, 6)) + 5).astype(
        np.float32
    )


def test_components_are_scikit_learns_whitened_ones():
    x = drawn()
    moments = Moments.of(x[:150], products=True) + Moments.of(x[150:], products=True)
    layer = Standardize(6, 3).eval()
    layer.set(*moments.scale("voice"), moments.directions("voice", 3))
    ours = layer(torch.from_numpy(x)[None])[0].numpy()
    z = (x - x.mean(0)) / x.std(0)
    theirs = PCA(3, whiten=True, svd_solver="full").fit_transform(z)
    signs = np.sign((ours * theirs).sum(0))
    np.testing.assert_allclose(ours * signs, theirs, atol=0.01)
    assert ours.std(0) == pytest.approx([1, 1, 1], abs=1e-3)
    explained = PCA(svd_solver="full").fit(z).explained_variance_ratio_.cumsum()
    for share in (0.5, 0.9, 0.999):
        assert moments.components("voice", share) == int(np.searchsorted(explained, share)) + 1


def test_more_components_than_numbers_are_refused():
    with pytest.raises(ConfigError, match=r"model.inputs.voice.reduce.*7 components of 6 numbers a step"):
        Moments.of(drawn(), products=True).components("voice", 7)


def test_noise_is_in_training_only():
    layer = Standardize(6, noise=0.5)
    x = torch.zeros(1, 20_000, 6)
    assert layer(x).std().item() == pytest.approx(0.5, rel=0.02)
    assert not layer.eval()(x).any()


def test_a_reduced_feature_is_trained_on_and_part_of_the_model(tmp_path):
    x = drawn(60)
    split = np.array(["train"] * 40 + ["val"] * 20, dtype=object)
    ids = np.array([f"s{i}" for i in range(60)], dtype=object)
    data = FeatureSet(ids, split, {"voice": Ragged(x, np.arange(61))}, {"score": x[:, 0].astype(float)})
    settings = {"inputs": {"voice": {"reduce": 2, "noise": 0.1}}}
    model = ModelConfig.model_validate(settings)
    target = RegressionTarget(kind="regression")
    result = fit(model, TrainConfig(epochs=1), data, ["voice"], {"score": target})
    assert result.snapshot.spec.shapes["voice"].components == 2
    kept = result.model.state_dict()["inputs.voice_.directions"]
    train = Moments.of(x[:40], products=True).directions("voice", 2)
    torch.testing.assert_close(kept, train)
