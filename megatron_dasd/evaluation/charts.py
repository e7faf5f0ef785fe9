"""The report's pictures, as SVG text.  Equal figures give equal bytes."""

from collections.abc import Mapping, Sequence
from io import StringIO
from itertools import pairwise
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = {"teacher": "#2f6db5", "student": "#d9822b", "shared": "#a8b0ba"}
"""Sentence classes; told apart also by those who see no difference of red and green."""
_INK, _ACCENT, _SECOND, _FAINT = "#27313b", "#2f6db5", "#d9822b", "#d5dae0"
_STYLE: Any = {
    "svg.hashsalt": "megatron_dasd",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceff2",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}


@matplotlib.rc_context(_STYLE)
def heldout_chart(nll: Mapping[str, float], stderr: Mapping[str, float | None]) -> Markup:
    """Held-out negative log-likelihood by stage, with standard errors."""
    figure = Figure(figsize=(5.6, 2.9), layout="constrained")
    axes = figure.subplots()
    values, errors = list(nll.values()), [stderr[name] or 0.0 for name in nll]
    colours = [_FAINT if number == 0 else _ACCENT for number in range(len(values))]
    bars = axes.bar(list(nll), values, yerr=errors, color=colours, width=0.55, capsize=4)
    axes.bar_label(bars, labels=[f"{value:.3f}" for value in values], padding=3)
    axes.set_ylabel("nats per token")
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.15)
    return _svg(figure)


@matplotlib.rc_context(_STYLE)
def loss_chart(curves: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> Markup:
    """Training and held-out loss of each training stage, one panel each, on one scale.

    Args:
        curves: by stage, ``train`` and ``heldout`` as lists of (iteration, loss).
    """
    figure = Figure(figsize=(2.6 * max(2, len(curves)), 2.7), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, (name, curve) in zip(panels, curves.items(), strict=True):
        _plot(axes, curve["train"], "training", _ACCENT, "-")
        _plot(axes, curve["heldout"], "held out", _SECOND, "o-")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    panels[0].set_ylabel("loss, nats per token")
    max(panels, key=lambda axes: len(axes.lines)).legend()
    return _svg(figure)


@matplotlib.rc_context(_STYLE)
def class_chart(shares: Mapping[str, Mapping[str, int]]) -> Markup:
    """Shares of the sentence classes, a stacked bar for each selection of sentences.

    Args:
        shares: by row label, sentences by class.
    """
    figure = Figure(figsize=(5.6, 0.9 + 0.42 * len(shares)), layout="constrained")
    axes = figure.subplots()
    labels = list(shares)[::-1]
    left = [0.0] * len(labels)
    for name, colour in COLOURS.items():
        parts = [shares[label][name] / max(1, sum(shares[label].values())) for label in labels]
        bars = axes.barh(labels, parts, left=left, color=colour, label=name, height=0.62)
        texts = [f"{part:.0%}" if part >= 0.05 else "" for part in parts]
        ink = _INK if name == "shared" else "white"
        axes.bar_label(bars, labels=texts, label_type="center", color=ink)
        left = [start + part for start, part in zip(left, parts, strict=True)]
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper right", ncols=3)
    return _svg(figure)


@matplotlib.rc_context(_STYLE)
def gap_chart(histogram: Mapping[str, Sequence[float]], beta: float) -> Markup:
    """Histogram of p_T - p_S over sentences; a bin of one class only has that class's colour."""
    figure = Figure(figsize=(5.6, 2.4), layout="constrained")
    axes = figure.subplots()
    bins = list(pairwise(histogram["edges"]))
    centres = [(low + high) / 2 for low, high in bins]
    widths = [high - low for low, high in bins]
    edge = beta - 1e-9  # of bins whose border is beta itself, but for rounding
    colours = [
        COLOURS["teacher" if low >= edge else "student" if high <= -edge else "shared"]
        for low, high in bins
    ]
    axes.bar(centres, histogram["counts"], width=widths, color=colours, edgecolor="white")
    axes.set_xlabel("teacher's probability of the sentence less the student's")
    axes.set_ylabel("sentences")
    axes.grid(axis="x", visible=False)
    return _svg(figure)


@matplotlib.rc_context(_STYLE)
def time_chart(seconds: Mapping[str, float]) -> Markup:
    """Wall time of each stage."""
    figure = Figure(figsize=(6.4, 0.6 + 0.24 * len(seconds)), layout="constrained")
    axes = figure.subplots()
    names = list(seconds)[::-1]
    bars = axes.barh(names, [seconds[name] for name in names], color=_ACCENT, height=0.65)
    axes.bar_label(bars, labels=[f"{seconds[name]:.1f}" for name in names], padding=3)
    axes.set_xlabel("seconds")
    axes.margins(x=0.1, y=0.01)
    axes.grid(axis="y", visible=False)
    return _svg(figure)


def _plot(
    axes: Axes, points: Sequence[Sequence[float]], label: str, colour: str, style: str
) -> None:
    if points:
        iterations, losses = zip(*points, strict=True)
        axes.plot(iterations, losses, style, label=label, color=colour, linewidth=1.6, markersize=4)


def _svg(figure: Figure) -> Markup:
    out = StringIO()
    facts: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(out, format="svg", transparent=True, metadata=facts)
    text = out.getvalue()
    return Markup(text[text.index("<svg") :])
