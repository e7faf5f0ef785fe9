"""Charts as SVG text: their common style, and the charts of sentence classes.

Equal figures give equal bytes.
"""

from collections.abc import Mapping
from io import StringIO
from itertools import pairwise

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.typing import RcKeyType

from megatron_dasd.pages.figures import ClassCounts, Histogram
from megatron_dasd.printing import shown

COLOURS = {
    "teacher": "#2f6db5",
    "student": "#d9822b",
    "shared": "#a8b0ba",
    "boosted": "#7b4fa3",
}
"""Of sentence classes; readers with red-green blindness can distinguish them too."""
INK, ACCENT, SECOND, FAINT = "#27313b", "#2f6db5", "#d9822b", "#d5dae0"
STYLE: dict[RcKeyType, object] = {
    "svg.hashsalt": "megatron_dasd",
    "font.size": 9,
    # labels hold names of domains and stages: a dollar sign in them is one
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceff2",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


@matplotlib.rc_context(STYLE)
def class_chart(shares: Mapping[str, ClassCounts]) -> Markup:
    """Shares of the sentence classes, a stacked bar for each selection of sentences.

    Args:
        shares: by row label, sentences by class.
    """
    figure = Figure(figsize=(5.6, 0.9 + 0.42 * len(shares)), layout="constrained")
    axes = figure.subplots()
    labels = list(shares)[::-1]
    left = [0.0] * len(labels)
    names = [name for name in COLOURS if all(name in shares[label] for label in labels)]
    for name in names:
        colour = COLOURS[name]
        parts = [shares[label][name] / max(1, sum(shares[label].values())) for label in labels]
        bars = axes.barh(labels, parts, left=left, color=colour, label=name, height=0.62)
        texts = [f"{part:.0%}" if part >= 0.05 else "" for part in parts]
        ink = INK if name == "shared" else "white"
        axes.bar_label(bars, labels=texts, label_type="center", color=ink)
        left = [start + part for start, part in zip(left, parts, strict=True)]
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper right", ncols=len(names))
    return svg(figure)


@matplotlib.rc_context(STYLE)
def gap_chart(histogram: Histogram, beta: float) -> Markup:
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
    return svg(figure)


def svg(figure: Figure) -> Markup:
    """Render a figure as an ``<svg>`` element, without metadata that differs between runs."""
    for label in figure.findobj(Text):  # characters that XML cannot hold
        label.set_text(shown(label.get_text()))
    out = StringIO()
    left_out: dict[str, None] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(out, format="svg", transparent=True, metadata=left_out)
    text = out.getvalue()
    return Markup(text[text.index("<svg") :])
