import json

import numpy as np
import pytest
import torch

from mmray.errors import SamplesError
from mmray.targets import (
    ClassificationTarget,
    FittedClassification,
    FittedMultilabel,
    FittedOrdinal,
    FittedRegression,
    MultilabelTarget,
    OrdinalTarget,
    RegressionTarget,
    known,
    target_from_json,
)
from mmray.training.vocabulary import Vocabulary

IDS = np.array([f"s{i}" for i in range(6)], dtype=object)
TRAIN = np.array([True, True, True, True, False, False])


CLASSES = ["a", "b", "c"]
CLASS_CODES = FittedClassification(ClassificationTarget(kind="classification", classes=CLASSES))
LABEL_CODES = FittedMultilabel(MultilabelTarget(kind="multilabel", classes=CLASSES))
NUMBER_CODES = FittedRegression(RegressionTarget(kind="regression"), 10.0, 2.0)
LEVEL_CODES = FittedOrdinal(OrdinalTarget(kind="ordinal", classes=CLASSES))
SCORE_CODES = FittedOrdinal(OrdinalTarget(kind="ordinal", scale="sentiment"))


def objects(*values) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def test_vocabulary_ranks_by_frequency_then_alphabet():
    words = list("bbbaaccde")
    assert Vocabulary.build(words).words == ("b", "a", "c", "d", "e")
    assert Vocabulary.build(words, max_size=2).words == ("b", "a")
    assert Vocabulary.build(words, min_count=2).words == ("b", "a", "c")


def test_vocabulary_indices_start_after_padding_and_unknown():
    vocabulary = Vocabulary.build(["b", "b", "a"])
    assert len(vocabulary) == 4
    indices = vocabulary.indices(objects("a", "b", "never", None, "", "a"))
    assert indices.dtype == np.int64
    assert indices.tolist() == [3, 2, 1, 1, 1, 3]
    assert Vocabulary(()).indices(objects("a")).tolist() == [1]
    assert vocabulary.indices(objects()).tolist() == []


def test_classes_are_the_sorted_labels_of_train():
    target = ClassificationTarget(kind="classification")
    codes = target.fit("mood", objects("sad", "gay", None, "sad", "gay", None), IDS, TRAIN)
    assert isinstance(codes, FittedClassification)
    assert codes.names == ["gay", "sad"]
    encoded = codes.encode(objects("sad", None, "gay"))
    assert encoded.tolist() == [1, -1, 0]
    assert known(encoded).tolist() == [True, False, True]


def test_a_label_train_never_saw_is_refused_with_the_samples():
    labels = objects("sad", "gay", None, "sad", "angry", "tired")
    target = ClassificationTarget(kind="classification")
    with pytest.raises(SamplesError, match=r"'angry', 'tired' not among the labels.*\(gay, sad\).*s4, s5"):
        target.fit("mood", labels, IDS, TRAIN)
    named = ClassificationTarget(kind="classification", classes=["tired", "sad", "gay", "angry"])
    assert named.fit("mood", labels, IDS, TRAIN).encode(labels).tolist() == [1, 2, -1, 1, 3, 0]
    few = ClassificationTarget(kind="classification", classes=["sad"])
    with pytest.raises(SamplesError, match=r"not among targets.mood.classes \(sad\); for example sample s1"):
        few.fit("mood", labels, IDS, TRAIN)


@pytest.mark.parametrize(
    "target",
    [
        CLASS_CODES.target,
        LABEL_CODES.target,
        NUMBER_CODES.target,
        LEVEL_CODES.target,
        SCORE_CODES.target,
        MultilabelTarget(kind="multilabel"),
    ],
)
def test_a_target_train_never_knows_is_refused(target):
    numeric = target.kind == "regression" or getattr(target, "scale", None)
    unknown = np.full(6, np.nan) if numeric else objects(*[None] * 6)
    with pytest.raises(SamplesError, match="target mood: no sample of the train split"):
        target.fit("mood", unknown, IDS, TRAIN)


def test_numbers_stay_as_they_are_and_the_models_are_standardised_over_train():
    values = np.array([1.0, 5, np.nan, 9, 1000, np.nan])
    codes = RegressionTarget(kind="regression").fit("score", values, IDS, TRAIN)
    assert isinstance(codes, FittedRegression)
    np.testing.assert_array_equal(codes.encode(values), values)
    assert known(codes.encode(values)).tolist() == [True, True, False, True, True, False]
    outputs = codes.standardised(torch.tensor([1.0, 5, 9], dtype=torch.float64))
    assert outputs.mean().item() == pytest.approx(0, abs=1e-6)
    assert outputs.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(codes.decode(outputs[:, None].numpy()).values, [1, 5, 9], rtol=1e-6)


@pytest.mark.parametrize("extreme", [np.inf, -np.inf, 1e300])
def test_numbers_that_overflow_are_refused_with_the_sample(extreme):
    values = np.array([1.0, 2, extreme, np.nan, 5, np.nan])
    with pytest.raises(SamplesError, match=r"target score: .* overflow; look at sample s2"):
        RegressionTarget(kind="regression").fit("score", values, IDS, TRAIN)


def test_a_constant_number_is_only_shifted():
    codes = RegressionTarget(kind="regression").fit("score", np.full(6, 0.1), IDS, TRAIN)
    assert isinstance(codes, FittedRegression)
    assert codes.standardised(torch.tensor([0.1, 1.1])).tolist() == pytest.approx([0, 1])


def test_priors_are_the_best_constants():
    counts = np.array([0, 0, 0, 0, 0, 1, -1, -1])  # 5 a, 1 b, no c: with one more each 6, 2, 1 of 9
    shares = np.array([6, 2, 1]) / 9
    np.testing.assert_allclose(np.exp(CLASS_CODES.prior(counts)), shares, rtol=1e-6)
    np.testing.assert_allclose(
        LEVEL_CODES.decode(LEVEL_CODES.prior(counts)[None]).probabilities[0],  # pyright: ignore[reportOptionalSubscript]
        shares,
        rtol=1e-5,  # pyright: ignore[reportOptionalSubscript]
    )
    assert NUMBER_CODES.prior(np.array([12.0, 14, np.nan])).tolist() == [1.5]
    truth = np.array([[1, 0, 1], [1, 0, 0], [np.nan] * 3, [1, 0, 0]])  # of 3 rows, and 2 more
    prior = LABEL_CODES.decode(LABEL_CODES.prior(truth)[None]).probabilities[0]  # pyright: ignore[reportOptionalSubscript]
    assert prior.tolist() == pytest.approx([4 / 5, 1 / 5, 2 / 5])


def test_balanced_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    labels = objects("a", "b", "a", "a", "c", "b")
    target = ClassificationTarget(kind="classification", classes=CLASSES, class_weights="balanced")
    codes = target.fit("mood", labels, IDS, np.ones(6, dtype=bool))
    assert isinstance(codes, FittedClassification)
    expected = compute_class_weight("balanced", classes=np.array(CLASSES), y=labels.astype(str))
    assert codes.target.class_weights == pytest.approx(dict(zip(CLASSES, expected, strict=True)))
    some = ClassificationTarget(kind="classification", class_weights={"b": 3.0})
    fitted = some.fit("mood", labels, IDS, np.ones(6, dtype=bool))
    assert isinstance(fitted, FittedClassification)
    assert fitted.target.class_weights == {"a": 1.0, "b": 3.0, "c": 1.0}
    typo = ClassificationTarget(kind="classification", class_weights={"d": 3.0})
    with pytest.raises(SamplesError, match=r"a weight is given for d, not among the classes \(a, b, c\)"):
        typo.fit("mood", labels, IDS, np.ones(6, dtype=bool))


def test_sets_of_labels():
    labels = objects(["b", "a"], [], None, ["b"], ["a"], ["b"])
    target = MultilabelTarget(kind="multilabel", positive_weights="balanced")
    codes = target.fit("tags", labels, IDS, TRAIN)
    assert isinstance(codes, FittedMultilabel)
    assert codes.names == ["a", "b"]
    encoded = codes.encode(labels)
    np.testing.assert_array_equal(encoded[:4], [[1, 1], [0, 0], [np.nan, np.nan], [0, 1]])
    assert known(encoded).tolist() == [True, True, False, True, True, True]
    # Of 3 known rows of train a holds in 1 and b in 2; (without + 1) / (with + 1).
    assert codes.target.positive_weights == pytest.approx({"a": 3 / 2, "b": 2 / 3})
    outputs = np.array([[2.0, -1], [-1, -2], [0.0, 0.0]], dtype=np.float32)
    assert codes.for_table(codes.decode(outputs).values) == [["a"], [], ["a", "b"]]
    with pytest.raises(SamplesError, match=r"'z' not among the labels.*sample s4, s5"):
        target.fit("tags", objects(["b"], [], None, ["a"], ["a", "z"], ["z"]), IDS, TRAIN)


def test_scores_have_the_nearest_level_and_an_expected_value():
    scores = torch.tensor([-3.0, -2.6, -0.5, 0.0, 0.5, 1.5, 2.4, 9.0, torch.nan], dtype=torch.float64)
    assert SCORE_CODES.level(scores).tolist() == [0, 0, 3, 3, 3, 5, 5, 6, -1]  # half to even: 1.5 → 2
    np.testing.assert_array_equal(SCORE_CODES.encode(scores.numpy()), scores.numpy())
    outputs = np.sort(np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32))[:, ::-1].copy()
    p = SCORE_CODES.decode(outputs).probabilities
    assert (p >= 0).all()  # pyright: ignore[reportOptionalOperand]
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)  # pyright: ignore[reportOptionalMemberAccess]
    np.testing.assert_allclose(SCORE_CODES.decode(outputs).values, p @ np.arange(-3, 4), atol=1e-6)  # pyright: ignore[reportOptionalOperand]
    np.testing.assert_array_equal(
        FittedOrdinal(OrdinalTarget(kind="ordinal", classes=list("abcdefg"))).decode(outputs).values,
        (p.cumsum(1) < 0.5).sum(1),  # the median  # pyright: ignore[reportOptionalMemberAccess]
    )


@pytest.mark.parametrize("codes", [CLASS_CODES, LABEL_CODES, NUMBER_CODES, LEVEL_CODES, SCORE_CODES])
def test_codes_come_back_from_json(codes):
    assert target_from_json(json.loads(json.dumps(codes.to_json()))) == codes
