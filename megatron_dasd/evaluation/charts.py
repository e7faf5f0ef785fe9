"""The report's pictures of likelihood, loss and time; those of sentences are in ``pages``."""

from collections.abc import Mapping, Sequence

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from megatron_dasd.evaluation.accuracy import BEFORE, TEACHER, AccuracyFigures
from megatron_dasd.evaluation.by_benchmark import BenchmarkFigures
from megatron_dasd.pages.charts import ACCENT, FAINT, SECOND, STYLE, svg


@matplotlib.rc_context(STYLE)
def accuracy_chart(models: Mapping[str, AccuracyFigures]) -> Markup:
    """Accuracy by model, with 95 % intervals."""
    figure = Figure(figsize=(5.6, 2.9), layout="constrained")
    axes = figure.subplots()
    found = [model["accuracy"] for model in models.values()]
    values = [100 * one["mean"] for one in found]
    errors = [196 * (one["stderr"] or 0.0) for one in found]
    colours = [{TEACHER: SECOND, BEFORE: FAINT}.get(name, ACCENT) for name in models]
    bars = axes.bar(list(models), values, yerr=errors, color=colours, width=0.55, capsize=4)
    axes.bar_label(bars, labels=[f"{value:.0f}" for value in values], padding=3)
    axes.set_ylabel("% right")
    axes.set_ylim(0, 115)
    axes.grid(axis="x", visible=False)
    return svg(figure)


@matplotlib.rc_context(STYLE)
def benchmark_chart(benchmarks: Mapping[str, BenchmarkFigures]) -> Markup:
    """Accuracy by benchmark and model, with 95 % intervals for new questions."""
    figure = Figure(figsize=(2.2 + 1.3 * len(benchmarks), 2.9), layout="constrained")
    axes = figure.subplots()
    models = list(dict.fromkeys(name for one in benchmarks.values() for name in one["models"]))
    width = 0.8 / max(1, len(models))
    for number, name in enumerate(models):
        places, values, halves = [], [], []
        for place, one in enumerate(benchmarks.values()):
            if name in one["models"]:
                found = one["models"][name]["new_questions"]
                places.append(place + (number - (len(models) - 1) / 2) * width)
                values.append(100 * found["mean"])
                half = 0.0 if found["low"] is None else found["mean"] - found["low"]
                halves.append(100 * half)
        axes.bar(places, values, yerr=halves, width=0.9 * width, capsize=3, label=name)
    axes.set_xticks(range(len(benchmarks)), [one["title"] for one in benchmarks.values()])
    axes.set_ylabel("% right")
    axes.set_ylim(0, 115)
    axes.grid(axis="x", visible=False)
    axes.legend()
    return svg(figure)


@matplotlib.rc_context(STYLE)
def heldout_chart(nll: Mapping[str, float], stderr: Mapping[str, float | None]) -> Markup:
    """Held-out negative log-likelihood by stage, with standard errors."""
    figure = Figure(figsize=(5.6, 2.9), layout="constrained")
    axes = figure.subplots()
    values, errors = list(nll.values()), [stderr[name] or 0.0 for name in nll]
    colours = [FAINT if number == 0 else ACCENT for number in range(len(values))]
    bars = axes.bar(list(nll), values, yerr=errors, color=colours, width=0.55, capsize=4)
    axes.bar_label(bars, labels=[f"{value:.3f}" for value in values], padding=3)
    axes.set_ylabel("nats per token")
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.15)
    return svg(figure)


@matplotlib.rc_context(STYLE)
def loss_chart(curves: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> Markup:
    """Training and held-out loss of each training stage, one panel each, on one scale.

    Args:
        curves: by stage, ``train`` and ``heldout`` as lists of (iteration, loss); of what the
            teacher wrote behind the student's prefixes ``continuation``.
    """
    figure = Figure(figsize=(2.6 * max(2, len(curves)), 2.7), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, (name, curve) in zip(panels, curves.items(), strict=True):
        _plot(axes, curve["train"], "training", ACCENT, "-")
        _plot(axes, curve["heldout"], "held out", SECOND, "o-")
        _plot(axes, curve.get("continuation", []), "after student's prefix", FAINT, ".")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    panels[0].set_ylabel("loss, nats per token")
    max(panels, key=lambda axes: len(axes.lines)).legend()
    return svg(figure)


@matplotlib.rc_context(STYLE)
def accuracy_curve_chart(curves: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> Markup:
    """Accuracy of evaluated checkpoints over the steps, one panel a training stage.

    Args:
        curves: by stage and benchmark, lists of (iteration, share of right answers).
    """
    figure = Figure(figsize=(2.6 * max(2, len(curves)), 2.7), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, (stage, by_name) in zip(panels, curves.items(), strict=True):
        for name, points in by_name.items():
            steps, shares = zip(*points, strict=True)
            axes.plot(steps, [100 * share for share in shares], "o-", label=name, markersize=4)
        axes.set_title(stage, fontsize=10)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.legend()
    panels[0].set_ylabel("% right")
    return svg(figure)


@matplotlib.rc_context(STYLE)
def cut_off_chart(by_length: Sequence[Mapping[str, float]]) -> Markup:
    """Share of the student's answers that their cap cut off, by the teacher's length.

    Args:
        by_length: ranges as ``revision.lengths`` gives them.
    """
    figure = Figure(figsize=(5.6, 2.7), layout="constrained")
    axes = figure.subplots()
    labels = [f"{part['from']:,} to {part['to']:,}" for part in by_length]
    shares = [100 * part["cut_off"] for part in by_length]
    bars = axes.bar(labels, shares, color=ACCENT, width=0.6)
    axes.bar_label(bars, labels=[f"{share:.0f}" for share in shares], padding=3)
    axes.set_xlabel("tokens of the teacher's response")
    axes.set_ylabel("% cut off by the cap")
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.15)
    return svg(figure)


@matplotlib.rc_context(STYLE)
def time_chart(seconds: Mapping[str, float]) -> Markup:
    """Wall time of each stage."""
    figure = Figure(figsize=(6.4, 0.6 + 0.24 * len(seconds)), layout="constrained")
    axes = figure.subplots()
    names = list(seconds)[::-1]
    bars = axes.barh(names, [seconds[name] for name in names], color=ACCENT, height=0.65)
    axes.bar_label(bars, labels=[f"{seconds[name]:.1f}" for name in names], padding=3)
    axes.set_xlabel("seconds")
    axes.margins(x=0.1, y=0.01)
    axes.grid(axis="y", visible=False)
    return svg(figure)


def _plot(
    axes: Axes, points: Sequence[Sequence[float]], label: str, colour: str, style: str
) -> None:
    if points:
        iterations, losses = zip(*points, strict=True)
        axes.plot(iterations, losses, style, label=label, color=colour, linewidth=1.6, markersize=4)
