import xml.etree.ElementTree as ET

import numpy as np
import pytest

from mmray.results.plots import (
    confusion_figure,
    labels_figure,
    scatter_figure,
    scores_figure,
    to_svg,
    training_figure,
    trials_figure,
)

HISTORY = [
    {"epoch": 1, "train_loss": 1.0, "val_loss": 1.1, "val/a/accuracy": 0.5},
    {"epoch": 2, "train_loss": 0.5, "val_loss": None, "val/a/accuracy": 0.75},
    {"epoch": 3, "train_loss": 0.25, "val_loss": 0.9, "val/a/accuracy": float("nan")},
]


def test_training_curves_are_the_history():
    loss, accuracy = training_figure(HISTORY, 2, "a/accuracy").axes
    curves = {str(line.get_label()): np.asarray(line.get_ydata(), dtype=float) for line in loss.lines}
    np.testing.assert_array_equal(curves["train"], [1.0, 0.5, 0.25])
    np.testing.assert_array_equal(curves["validation"], [1.1, np.nan, 0.9])
    np.testing.assert_array_equal(accuracy.lines[0].get_ydata(), [0.5, 0.75, np.nan])
    for axes in (loss, accuracy):
        np.testing.assert_array_equal(axes.lines[-1].get_xdata(), [2, 2])
    assert len(training_figure(HISTORY, 2, "loss").axes) == 1


def test_scores_stand_on_their_models_lines():
    axes = scores_figure("a", ["majority", "fused"], [0.25, 0.9], [None, (0.8, 0.95)]).axes[0]
    lines_of = dict(zip((label.get_text() for label in axes.get_yticklabels()), axes.get_yticks()))
    points = (np.asarray(line.get_xydata()) for line in axes.lines)
    drawn = {(tuple(xy[:, 0]), xy[0, 1]) for xy in points}
    assert drawn == {
        ((0.25,), lines_of["majority"]),
        ((0.9,), lines_of["fused"]),
        ((0.8, 0.95), lines_of["fused"]),
    }
    assert lines_of["majority"] > lines_of["fused"]


def test_confusion_is_shaded_by_the_share_of_the_true_class():
    counts = np.array([[3, 1, 0], [0, 0, 0], [0, 5, 5]])
    axes = confusion_figure(counts, ["a", "b", "c" * 100], "t").axes[0]
    shares = np.asarray(axes.collections[0].get_array()).reshape(3, 3)
    np.testing.assert_allclose(shares, [[0.75, 0.25, 0], [0, 0, 0], [0, 0.5, 0.5]])
    written = {text.get_position(): int(text.get_text()) for text in axes.texts}
    assert written == {(0.5, 0.5): 3, (1.5, 0.5): 1, (1.5, 2.5): 5, (2.5, 2.5): 5}
    assert max(len(label.get_text()) for label in axes.get_yticklabels()) == 24


def test_labels_have_two_bars():
    axes = labels_figure({"a": (0.5, 0.25), "b" * 30: (float("nan"), 1.0)}, "t").axes[0]
    precision, recall = ([bar.get_width() for bar in container] for container in axes.containers)
    np.testing.assert_array_equal(precision, [0.5, np.nan])
    np.testing.assert_array_equal(recall, [0.25, 1.0])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b" * 23 + "…"]


def test_scatter():
    line, points = scatter_figure(np.array([0.0, 2.0]), np.array([1.0, -1.0]), "t").axes[0].lines
    np.testing.assert_array_equal(points.get_xydata(), [[0.0, 1.0], [2.0, -1.0]])
    np.testing.assert_array_equal(line.get_xydata(), [[-1.0, -1.0], [2.0, 2.0]])


@pytest.mark.parametrize("size", [1, 16, 40])
def test_svg_is_whole_and_in_the_pages_colour(size):
    names = [f"<{i}> & $x$" for i in range(size)]
    svg = to_svg(confusion_figure(np.ones((size, size), dtype=int), names, "title"), "first")
    root = ET.fromstring(svg)
    texts = ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert [texts.count(name) for name in names] == [2] * size
    assert "#010203" not in svg
    assert "currentColor" in svg
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert all(name.startswith("first-") for name in ids)


def test_trials_are_drawn_by_how_they_ended():
    curves = [
        {"settings": {}, "state": "ended", "values": [0.9, 0.4]},
        {"settings": {}, "state": "stopped", "values": [0.8]},
        {"settings": {}, "state": "failed", "values": [None, 0.7]},
    ]
    (axes,) = trials_figure(curves, "loss").axes
    lines = axes.get_lines()
    assert [line.get_linestyle() for line in lines] == [":", "--", "-"], "the best is in front"
    assert np.asarray(lines[2].get_ydata()).tolist() == [0.9, 0.4]
    assert np.isnan(np.asarray(lines[0].get_ydata())[0])
    assert "epoch" in to_svg(trials_figure(curves, "loss"), "trials")
