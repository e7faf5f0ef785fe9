"""Hours of training stages from one node to a thousand GPUs, and their chart."""

from dataclasses import replace

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.config.training import Train
from megatron_dasd.pages.charts import ACCENT, INK, SECOND, STYLE, svg
from megatron_dasd.planning.estimate import recipe_of, training_cost
from megatron_dasd.planning.layouts import efficiency, fitting

GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)
Growth = dict[str, dict[int, tuple[float, float] | None]]
"""By train stage and number of GPUs, the hours if all exchange between ranks is hidden behind
computing, and if none is; None where no layout fits, or the batch has fewer rows than ranks."""
_COLOURS = (ACCENT, SECOND, INK, "#7b4fa3", "#3b8f6a")


def growth(pipeline: Pipeline) -> Growth:
    """Compute the hours of each train stage on more and more GPUs, in the plainest layout."""
    found: Growth = {}
    for stage, settings in pipeline.stages.items():
        if isinstance(settings, Train):
            found[stage] = {
                gpus: _hours(pipeline, stage, settings.global_batch_size, gpus) for gpus in GPUS
            }
    return found


def _hours(
    pipeline: Pipeline, stage: str, global_batch_size: int, gpus: int
) -> tuple[float, float] | None:
    recipe = recipe_of(pipeline, stage)
    launch = recipe.launch.model_copy(update={"num_ranks": gpus})
    fits = fitting(replace(recipe, launch=launch), pipeline.plan, global_batch_size)
    if not fits:
        return None
    best = fits[0].recipe
    cost = training_cost(pipeline, stage, best)
    num_steps = max(1.0, cost.num_tokens / (best.seq_length * global_batch_size))
    return cost.hours, cost.hours / efficiency(best, 3600 * cost.hours / num_steps)


@matplotlib.rc_context(STYLE)
def growth_chart(hours: Growth) -> Markup:
    """Chart hours by GPUs, as a band for each stage: from all exchange hidden to none."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    for (stage, by_gpus), colour in zip(hours.items(), _COLOURS * 9, strict=False):
        known = {gpus: both for gpus, both in by_gpus.items() if both}
        if known:
            low, high = ([both[i] for both in known.values()] for i in (0, 1))
            axes.plot(list(known), low, marker="o", markersize=3, color=colour, label=stage)
            axes.fill_between(list(known), low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(GPUS, [f"{gpus:,}" for gpus in GPUS])
    axes.set_xlabel("GPUs")
    axes.set_ylabel("hours")
    axes.legend()
    return svg(figure)
