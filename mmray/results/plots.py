"""Numbers → matplotlib figures → SVG to put inline in a page.

Figures are made without pyplot, so nothing is global and threads may draw. In the SVG, text stays text and
takes the page's own colour and font (`currentColor`): the same figure reads well in light and dark.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure

from mmray.targets.metrics import calibration_error, reliability

__all__ = [
    "confusion_figure",
    "labels_figure",
    "noise_figure",
    "reliability_figure",
    "scatter_figure",
    "scores_figure",
    "shares_figure",
    "to_svg",
    "training_figure",
    "trials_figure",
]

BLUE, ORANGE, GREY = "#3b82f6", "#f08c2e", "#8a94a3"
INK = "#010203"  # stands for the page's own text colour
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mmray",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "text.color": INK,
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
}
MAX_WRITTEN_CLASSES = 16
MAX_LETTERS = 24
MAX_POINTS = 2000


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element; ids start with `name`, so that several fit in one page."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context(STYLE):
        figure.savefig(text, format="svg", transparent=True, bbox_inches="tight", metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)


def training_figure(history: Sequence[Mapping[str, Any]], best_epoch: int, monitor: str) -> Figure:
    """Losses, and the monitored metric where it is not the loss, by epoch; the best epoch marked.

    `history` has `epoch`, `train_loss`, `val_loss` and `val/<monitor>`; None and NaN are left out.
    """
    epochs = [entry["epoch"] for entry in history]
    panels = {"loss": [("train_loss", "train", BLUE), ("val_loss", "validation", ORANGE)]}
    if monitor != "loss":
        panels[monitor] = [(f"val/{monitor}", "validation", ORANGE)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.4 * len(panels), 3.0), layout="constrained")
        for axes, (title, curves) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items()):
            for key, label, color in curves:
                values = [_number(entry.get(key)) for entry in history]
                axes.plot(epochs, values, color=color, label=label, marker="o", markersize=3)
            axes.axvline(best_epoch, color=GREY, linestyle=":", label=f"best epoch, {best_epoch}")
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            axes.grid(axis="y")
            axes.legend(fontsize=9)
    return figure


def trials_figure(curves: Sequence[Mapping[str, Any]], monitor: str) -> Figure:
    """The monitor of every trial, epoch by epoch: the best one in front, stopped dashed, failed dotted."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6, 3.2), layout="constrained")
        axes = figure.subplots()
        for place, curve in reversed(list(enumerate(curves))):
            values = [_number(value) for value in curve["values"]]
            style = {"stopped": "--", "failed": ":"}.get(curve["state"], "-")
            colour, width = (ORANGE, 2.0) if place == 0 else (BLUE, 0.8)
            axes.plot(range(1, len(values) + 1), values, style, color=colour, linewidth=width, marker=".")
        axes.set(xlabel="epoch", ylabel=monitor, title="trials (dashed: stopped early, dotted: failed)")
        axes.grid(axis="y")
    return figure


def scores_figure(
    metric: str,
    models: Sequence[str],
    values: Sequence[float | None],
    intervals: Sequence[tuple[float, float] | None],
) -> Figure:
    """One metric of several models, from top to bottom, with intervals; the last stands out."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 0.7 + 0.34 * len(models)), layout="constrained")
        axes = figure.subplots()
        for y, (value, interval) in enumerate(zip(reversed(values), reversed(intervals))):
            color = GREY if y else BLUE
            if interval:
                axes.plot(interval, [y, y], color=color, linewidth=2, solid_capstyle="butt")
            axes.plot([_number(value)], [y], color=color, marker="o", markersize=7)
        axes.set_yticks(range(len(models)), list(reversed(models)))
        axes.set_ylim(-0.6, len(models) - 0.4)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_title(metric)
    return figure


def confusion_figure(counts: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Counts [C, C] (rows true, columns predicted), shaded by the share of the true class."""
    size = len(classes)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    shades = LinearSegmentedColormap.from_list("shares", [to_rgba(BLUE, 0.0), to_rgba(BLUE, 0.8)])
    side = min(1.2 + 0.42 * size, 7.5)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(side, side))
        axes = figure.subplots()
        axes.pcolormesh(shares, cmap=shades, vmin=0, vmax=1, edgecolors=to_rgba(GREY, 0.25), linewidth=0.5)
        axes.set_aspect("equal")
        axes.invert_yaxis()
        font = 10 if size <= MAX_WRITTEN_CLASSES else max(4, 160 / size)
        middles = np.arange(size) + 0.5
        labels = [_cut(label) for label in classes]
        axes.set_xticks(middles, labels, rotation=90 if max(map(len, labels)) > 3 else 0, fontsize=font)
        axes.set_yticks(middles, labels, fontsize=font)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if size <= MAX_WRITTEN_CLASSES:
            for row, column in np.argwhere(counts):
                axes.text(column + 0.5, row + 0.5, str(counts[row, column]), ha="center", va="center")
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(title)
    return figure


def reliability_figure(confidence: np.ndarray, right: np.ndarray, title: str) -> Figure:
    """How often a prediction was right by how sure it was; size: how often it was said. The line: honest."""
    rows, said, true = reliability(confidence, right)
    some = rows > 0
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4, 3.8), layout="constrained")
        axes = figure.subplots()
        low = float(min(said[some].min(), true[some].min(), 0.9))
        axes.plot([low, 1], [low, 1], color=GREY, linestyle=":")
        sizes = 20 + 180 * rows[some] / rows.max()
        axes.scatter(said[some], true[some], s=sizes, color=BLUE, alpha=0.7, linewidths=0)
        axes.plot(said[some], true[some], color=BLUE, linewidth=1)
        axes.grid()
        axes.set_xlabel("probability of what is predicted")
        axes.set_ylabel("share that is right")
        axes.set_title(f"{title}: calibration, error {calibration_error(confidence, right):.3f}")
    return figure


def labels_figure(scores: Mapping[str, tuple[float, float]], title: str) -> Figure:
    """A pair of bars a label, from top to bottom: {label: (precision, recall)}, NaN where undefined."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 0.9 + 0.42 * len(scores)), layout="constrained")
        axes = figure.subplots()
        y = np.arange(len(scores))
        for offset, column, label, color in ((-0.2, 0, "precision", BLUE), (0.2, 1, "recall", ORANGE)):
            axes.barh(y + offset, [pair[column] for pair in scores.values()], 0.36, color=color, label=label)
        axes.set_yticks(y, [_cut(label) for label in scores])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.legend(fontsize=9)
        axes.set_title(title)
    return figure


def scatter_figure(truth: np.ndarray, predicted: np.ndarray, title: str) -> Figure:
    """Predicted numbers against the true ones (of some rows where there are many); the line of equality."""
    some = np.unique(np.linspace(0, len(truth) - 1, min(len(truth), MAX_POINTS)).astype(np.int64))
    truth, predicted = truth[some], predicted[some]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4, 3.8), layout="constrained")
        axes = figure.subplots()
        low, high = min(truth.min(), predicted.min()), max(truth.max(), predicted.max())
        axes.plot([low, high], [low, high], color=GREY, linestyle=":")
        axes.plot(truth, predicted, color=BLUE, alpha=0.6, linestyle="", marker="o", markersize=4)
        axes.set_aspect("equal")
        axes.grid()
        axes.set_xlabel("true")
        axes.set_ylabel("predicted")
        axes.set_title(title)
    return figure


def shares_figure(shares: Mapping[str, float], title: str) -> Figure:
    """A bar a modality, from top to bottom."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 0.9 + 0.36 * len(shares)), layout="constrained")
        axes = figure.subplots()
        axes.barh(range(len(shares)), list(shares.values()), 0.6, color=BLUE)
        axes.set_yticks(range(len(shares)), [_cut(name) for name in shares])
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_title(title)
    return figure


def noise_figure(
    curves: Mapping[str, Sequence[Sequence[float | None]]], clean: float | None, title: str
) -> Figure:
    """A line a modality: a metric by the noise on it, from `clean` on; of words the share that is unknown."""
    styles = ["-", "--", ":", "-."]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = figure.subplots()
        for at, (name, points) in enumerate(curves.items()):
            x = [0.0, *(_number(level) for level, _ in points)]
            y = [_number(clean), *(_number(value) for _, value in points)]
            color = (BLUE, ORANGE, GREY)[at % 3]
            axes.plot(x, y, styles[at // 3 % 4], color=color, marker="o", markersize=3, label=_cut(name))
        axes.set_xlabel("noise: standard deviations, or share of words")
        axes.grid(axis="y")
        axes.legend(fontsize=9)
        axes.set_title(title)
    return figure


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _cut(label: str) -> str:
    return label if len(label) <= MAX_LETTERS else f"{label[: MAX_LETTERS - 1]}…"
