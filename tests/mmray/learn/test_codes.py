import numpy as np
import pytest

from mmray.config import ClassificationTarget, RegressionTarget
from mmray.errors import SamplesError
from mmray.learn.codes import ClassCodes, NumberCodes, Vocabulary, fit_codes, known

IDS = np.array([f"s{i}" for i in range(6)], dtype=object)
TRAIN = np.array([True, True, True, True, False, False])


def objects(*values) -> np.ndarray:
    return np.array(values, dtype=object)


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
    codes = fit_codes("mood", target, objects("sad", "gay", None, "sad", "gay", None), IDS, TRAIN)
    assert codes == ClassCodes(("gay", "sad"))
    encoded = codes.encode(objects("sad", None, "gay"))
    assert encoded.tolist() == [1, -1, 0]
    assert known(encoded).tolist() == [True, False, True]


def test_a_label_train_never_saw_is_refused_with_the_samples():
    labels = objects("sad", "gay", None, "sad", "angry", "tired")
    target = ClassificationTarget(kind="classification")
    with pytest.raises(SamplesError, match=r"'angry', 'tired' not among the labels.*\(gay, sad\).*s4, s5"):
        fit_codes("mood", target, labels, IDS, TRAIN)
    named = ClassificationTarget(kind="classification", classes=["tired", "sad", "gay", "angry"])
    assert fit_codes("mood", named, labels, IDS, TRAIN).encode(labels).tolist() == [1, 2, -1, 1, 3, 0]
    few = ClassificationTarget(kind="classification", classes=["sad"])
    with pytest.raises(SamplesError, match=r"not among targets.mood.classes \(sad\); for example sample s1"):
        fit_codes("mood", few, labels, IDS, TRAIN)


@pytest.mark.parametrize(
    "target", [ClassificationTarget(kind="classification"), RegressionTarget(kind="regression")]
)
def test_a_target_train_never_knows_is_refused(target):
    unknown = objects(*[None] * 6) if target.kind == "classification" else np.full(6, np.nan)
    with pytest.raises(SamplesError, match="target mood: no sample of the train split"):
        fit_codes("mood", target, unknown, IDS, TRAIN)


def test_numbers_are_standardised_over_train():
    values = np.array([1.0, 5, np.nan, 9, 1000, np.nan])
    codes = fit_codes("score", RegressionTarget(kind="regression"), values, IDS, TRAIN)
    assert isinstance(codes, NumberCodes)
    encoded = codes.encode(values)
    assert encoded[[0, 1, 3]].mean() == pytest.approx(0, abs=1e-6)
    assert encoded[[0, 1, 3]].std() == pytest.approx(1, abs=1e-6)
    assert known(encoded).tolist() == [True, True, False, True, True, False]
    np.testing.assert_allclose(codes.truth(encoded), values, rtol=1e-6)
    np.testing.assert_allclose(codes.predicted(encoded[:, None]), values, rtol=1e-6)


@pytest.mark.parametrize("extreme", [np.inf, -np.inf, 1e300])
def test_numbers_that_overflow_are_refused_with_the_sample(extreme):
    values = np.array([1.0, 2, extreme, np.nan, 5, np.nan])
    with pytest.raises(SamplesError, match=r"target score: .* overflow; look at sample s2"):
        fit_codes("score", RegressionTarget(kind="regression"), values, IDS, TRAIN)


def test_a_constant_number_is_only_shifted():
    codes = fit_codes("score", RegressionTarget(kind="regression"), np.full(6, 0.1), IDS, TRAIN)
    assert codes.encode(np.array([0.1, 1.1])).tolist() == pytest.approx([0, 1])


def test_priors_are_the_best_constants():
    classes = ClassCodes(("a", "b", "c"))
    counts = np.array([0, 0, 0, 0, 0, 1, -1, -1])  # 5 a, 1 b, no c: with one more each 6, 2, 1 of 9
    np.testing.assert_allclose(np.exp(classes.prior(counts)), np.array([6, 2, 1]) / 9, rtol=1e-6)
    assert NumberCodes(10, 2).prior(np.array([1, 2, np.nan], dtype=np.float32)).tolist() == [1.5]
