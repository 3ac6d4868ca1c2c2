"""What scikit-learn makes of the same rows: models that share no code with mmray's, to be held against them.

    features ─▶ a vector a row: stretched to 16 steps, flattened (words: TF-IDF) ─▶ standardised, in principal
    components ─▶ `svm` (radial) or `logistic`; of a number, support vector or ridge regression

The number of components, C, whether a row's mean over time is taken off, and whether several features are
put side by side or their calibrated log probabilities are added up, are chosen on the validation split. A
row without a feature is at that feature's mean, and has 1 in a column that says so.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mmray.errors import PlanError, SamplesError
from mmray.targets import FittedClassification, FittedRegression, FittedTarget, Target, known
from mmray.training.batches import FeatureSet, Ragged

__all__ = ["Yardstick", "fit_yardstick", "row_vectors"]

Yardstick = Literal["svm", "logistic"]

STEPS = 16
COMPONENTS = (20, 80)
PENALTIES = (0.1, 1.0, 10.0, 100.0)
MOST_WORDS = 20_000
MOST_ROWS = 20_000
"""Train rows an `svm` takes: its time grows with their square."""


def fit_yardstick(
    kind: Yardstick, data: FeatureSet, features: Sequence[str], targets: Mapping[str, Target]
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, str]]:
    """Outputs {split: {target: [N, C]}} for val and test, and {target: what was chosen}.

    Targets that are neither classes nor numbers are left out.

    Raises:
        PlanError: where there are too many rows for an `svm`.
        SamplesError: where the train split has no label, or no row with a feature.
    """
    train = data.split == "train"
    if kind == "svm" and train.sum() > MOST_ROWS:
        raise PlanError(
            f"an svm takes up to {MOST_ROWS:,} train rows, here are {train.sum():,}; take logistic"
        )
    outputs: dict[str, dict[str, np.ndarray]] = {"val": {}, "test": {}}
    chosen = {}
    for name in features:
        if not (train & (data.features[name].lengths > 0)).any():
            raise SamplesError(f"no train row has {name}")
    inputs = {name: _Inputs(data.features[name], train) for name in features}
    for name, target in targets.items():
        fitted = target.fit(name, data.targets[name], data.sample_ids, train)
        if not isinstance(fitted, FittedClassification | FittedRegression):
            continue
        found, chosen[name] = _Search(kind, fitted, fitted.encode(data.targets[name]), data.split).run(inputs)
        for split in outputs:
            outputs[split][name] = found[data.split == split]
    return outputs, chosen


def row_vectors(feature: Ragged, steps: int = STEPS, *, centred: bool = False) -> np.ndarray:
    """Rows of vectors → [N, steps · D] float64 by linear interpolation over time; NaN for rows without a
    step.

    Where no row has several steps: [N, D]. `centred`: less the row's mean over time.
    """
    lengths = feature.lengths
    if lengths.max(initial=0) <= 1:
        steps = 1
    last = np.maximum(lengths - 1, 0)[:, None]
    at_NS = np.linspace(0, 1, steps)[None] * last if steps > 1 else 0 * last
    low_NS = np.floor(at_NS).astype(np.int64)
    share_NS1 = (at_NS - low_NS)[..., None]
    first_N1 = np.minimum(feature.offsets[:-1], max(len(feature.values) - 1, 0))[:, None]
    values = feature.values.astype(np.float64)
    if not len(values):
        return np.full((len(lengths), steps * values.shape[1]), np.nan)
    high_NS = np.minimum(low_NS + 1, last)
    x_NSD = (1 - share_NS1) * values[first_N1 + low_NS] + share_NS1 * values[first_N1 + high_NS]
    if centred and steps > 1:
        x_NSD -= x_NSD.mean(1, keepdims=True)
    x_NSD[lengths == 0] = np.nan
    return x_NSD.reshape(len(lengths), -1)


class _Inputs:
    """A feature as vectors in principal components of the train rows, [N, K]; made once each way."""

    def __init__(self, feature: Ragged, train: np.ndarray):
        self.feature, self.train = feature, train
        self.present = feature.lengths > 0
        self.centrings = (
            (False, True) if feature.dim is not None and feature.lengths.max(initial=0) > 1 else (False,)
        )
        self._made: dict[tuple[bool, int], np.ndarray] = {}

    def vectors(self, centred: bool, components: int) -> np.ndarray:
        """[N, K], with a column that says where the feature is absent."""
        if (centred, components) not in self._made:
            self._made[centred, components] = self._reduced(centred, components)
        return self._made[centred, components]

    def _reduced(self, centred: bool, components: int) -> np.ndarray:
        from sklearn.decomposition import PCA
        from sklearn.preprocessing import StandardScaler

        if self.feature.dim is None:
            rows = self._of_words()
        else:
            rows = row_vectors(self.feature, centred=centred)
        seen = self.train & self.present
        few = min(components, rows.shape[1], int(seen.sum()))
        scale, pca, again = StandardScaler(), PCA(few, svd_solver="full"), StandardScaler()
        again.fit(pca.fit_transform(scale.fit_transform(rows[seen])))
        found = np.zeros((len(rows), few))
        found[self.present] = again.transform(pca.transform(scale.transform(rows[self.present])))
        return np.column_stack([found, ~self.present])

    def _of_words(self) -> np.ndarray:
        """TF-IDF of the train rows' words, in as many components as are ever asked for."""
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        bounds = zip(self.feature.offsets[:-1], self.feature.offsets[1:])
        texts = [self.feature.values[start:end].tolist() for start, end in bounds]
        settings: Any = {"preprocessor": _as_it_is, "tokenizer": _as_it_is, "token_pattern": None}
        counts = TfidfVectorizer(max_features=MOST_WORDS, **settings)
        counts.fit([text for text, here in zip(texts, self.train) if here])
        rows = counts.transform(texts)
        width = min(max(COMPONENTS), rows.shape[1] - 1)
        if width < 1:
            return rows.toarray()  # pyright: ignore[reportAttributeAccessIssue]
        return TruncatedSVD(width, random_state=0).fit(rows[self.train]).transform(rows)


def _as_it_is(words: Any) -> Any:
    return words


class _Search:
    """What is best on validation, for one target."""

    def __init__(self, kind: Yardstick, target: FittedTarget, truth: np.ndarray, split: np.ndarray):
        self.kind, self.target, self.truth = kind, target, truth
        self.train, self.val = ((split == name) & known(truth) for name in ("train", "val"))

    def run(self, inputs: Mapping[str, _Inputs]) -> tuple[np.ndarray, str]:
        """Outputs [N, C] of the best, and what it is."""
        alone = {name: self._best([(f"{name}: ", one)]) for name, one in inputs.items()}
        if len(inputs) == 1:
            return next(iter(alone.values()))
        ways = [self._best([(f"{name} ", one) for name, one in inputs.items()], beside=True)]
        if isinstance(self.target, FittedClassification):
            present = np.stack([one.present for one in inputs.values()])[..., None]
            added = sum(np.where(here, found, 0.0) for here, (found, _) in zip(present, alone.values()))
            ways.append((np.asarray(added), "late, " + ", ".join(told for _, told in alone.values())))
        return max(ways, key=lambda way: self._score(way[0]))

    def _best(self, inputs: Sequence[tuple[str, _Inputs]], beside: bool = False) -> tuple[np.ndarray, str]:
        ways = []
        centrings = sorted({centred for _, one in inputs for centred in one.centrings})
        for centred, components in itertools.product(centrings, COMPONENTS):
            x = np.concatenate(
                [one.vectors(centred and centred in one.centrings, components) for _, one in inputs], axis=1
            )
            for penalty in PENALTIES:
                told = f"C={penalty:g} components={components}" + (" centred" if centred else "")
                name = "concat, " if beside else inputs[0][0]
                ways.append((self._fitted(x, penalty), name + told))
        return max(ways, key=lambda way: self._score(way[0]))

    def _score(self, outputs: np.ndarray) -> float:
        predicted = self.target.decode(outputs[self.val])
        parts, wholes = self.target.row_scores(predicted, self.truth[self.val])
        ratio = parts.sum() / max(wholes.sum(), 1e-300)
        return ratio if isinstance(self.target, FittedClassification) else -ratio

    def _fitted(self, x: np.ndarray, penalty: float) -> np.ndarray:
        """Outputs [N, C] of a model fitted on the train rows, calibrated on validation."""
        if not isinstance(self.target, FittedClassification):
            return self._numbers(x, penalty)
        classes = np.unique(self.truth[self.train])
        outputs = np.full((len(x), self.target.width), -20.0, np.float32)
        if len(classes) == 1:
            outputs[:, classes] = 0.0
            return outputs
        decided = self._classifier(penalty).fit(x[self.train], self.truth[self.train]).decision_function(x)
        if decided.ndim == 1:
            decided = np.stack([-decided, decided], axis=1) / 2
        outputs[:, classes] = decided
        if not self.val.any():
            return outputs
        fitted = self.target.calibrated(outputs[self.val], self.truth[self.val])
        assert isinstance(fitted, FittedClassification)
        return fitted.averaged([outputs / fitted.temperature])

    def _classifier(self, penalty: float) -> Any:
        from sklearn.linear_model import LogisticRegression
        from sklearn.svm import SVC

        if self.kind == "svm":
            return SVC(C=penalty)
        return LogisticRegression(C=penalty / 100, max_iter=2000)

    def _numbers(self, x: np.ndarray, penalty: float) -> np.ndarray:
        from sklearn.linear_model import Ridge
        from sklearn.svm import SVR

        target = self.target
        assert isinstance(target, FittedRegression)
        scaled = (self.truth - target.mean) / target.std
        model = SVR(C=penalty) if self.kind == "svm" else Ridge(alpha=100 / penalty)
        return model.fit(x[self.train], scaled[self.train]).predict(x)[:, None].astype(np.float32)
