"""Pictures of a selection: probabilities of whole responses, and of one response's sentences."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from megatron_dasd.pages.charts import COLOURS, INK, STYLE, svg
from megatron_dasd.pages.figures import SentenceFigures

MODEL_COLOURS = {
    "teacher": COLOURS["teacher"],
    "student": COLOURS["student"],
    "distilled": COLOURS["boosted"],
}
_MARKERS = {"teacher": "o", "student": "D", "distilled": "x"}


@matplotlib.rc_context(STYLE)
def density_chart(
    edges: Sequence[float], counts: Mapping[str, Mapping[str, Sequence[int]]]
) -> Markup:
    """Densities of the responses' probabilities, a panel each (arXiv 2601.09088, figures 3, 10).

    Args:
        edges: [bins + 1] borders.
        counts: by panel, by line (a model's name, or any other), [bins] responses.
    """
    figure = Figure(figsize=(4.2 * max(1, len(counts)), 2.7), layout="constrained")
    panels = figure.subplots(1, max(1, len(counts)), sharey=True, squeeze=False)[0]
    for axes, (title, lines) in zip(panels, counts.items(), strict=False):
        for number, (name, values) in enumerate(lines.items()):
            area = sum(values) * (edges[1] - edges[0])
            colour = MODEL_COLOURS.get(name, list(MODEL_COLOURS.values())[number])
            density = np.asarray(values) / max(area, 1e-12)
            axes.stairs(density, edges, fill=True, color=colour, alpha=0.25)
            axes.stairs(density, edges, color=colour, label=name, linewidth=1.4)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("probability of the response (geometric mean)")
        axes.legend()
    panels[0].set_ylabel("density")
    return svg(figure)


@matplotlib.rc_context(STYLE)
def sentence_chart(sentences: Sequence[SentenceFigures]) -> Markup:
    """One response: its sentences in order, each model's probability, the class as the colour.

    Args:
        sentences: at least one.
    """
    figure = Figure(figsize=(10.2, 2.8), layout="constrained")
    axes = figure.subplots()
    models = [m for m in MODEL_COLOURS if _probability(sentences[0], m) is not None]
    classes = [name for name in COLOURS if any(s["provenance"] == name for s in sentences)]
    for name in classes:
        places = [i for i, s in enumerate(sentences) if s["provenance"] == name]
        values = [[_probability(sentences[i], m) or 0.0 for m in models] for i in places]
        axes.vlines(places, np.min(values, axis=1), np.max(values, axis=1), color=COLOURS[name])
        for model, column in zip(models, np.transpose(values), strict=True):
            axes.plot(
                places, column, _MARKERS[model], color=COLOURS[name], markersize=3.5, zorder=3
            )
    keys = [Line2D([], [], color=COLOURS[name], label=f"{name} sentence") for name in classes]
    keys += [
        Line2D([], [], color=INK, marker=_MARKERS[m], linestyle="", markersize=4, label=m)
        for m in models
    ]
    figure.legend(handles=keys, loc="outside upper right", ncols=len(keys), fontsize=8)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("sentence")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("probability")
    return svg(figure)


def _probability(sentence: SentenceFigures, model: str) -> float | None:
    return {
        "teacher": sentence["teacher_probability"],
        "student": sentence["student_probability"],
        "distilled": sentence["distilled_probability"],
    }[model]
