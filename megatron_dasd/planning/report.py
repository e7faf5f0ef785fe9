"""The plan of a pipeline, on the terminal and as a page: its figures and how they are shown."""

from pathlib import Path
from typing import TypedDict

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.config.training import Train
from megatron_dasd.pages.render import render
from megatron_dasd.planning.estimate import costs, recipe_of, total_disk_bytes
from megatron_dasd.planning.growth import Growth, growth, growth_chart
from megatron_dasd.planning.host_memory import host_memory
from megatron_dasd.planning.layouts import Fit, fitting, usable_bytes
from megatron_dasd.planning.memory import highest
from megatron_dasd.printing import say

PARTS = ("weights", "gradients", "optimizer", "activations", "loss", "total")
MOST_LAYOUTS = 6
"""Layouts shown for each training stage."""


class StageFigures(TypedDict):
    """Cost of a stage."""

    stage: str
    kind: str
    gpus: int
    tokens: float
    exaflops: float
    """1e18 operations."""
    tokens_per_second: float
    hours: float
    gpu_hours: float


class LayoutFigures(TypedDict):
    """A layout and its memory."""

    layout: str
    gb: float
    """On the fullest rank, in units of 1e9 bytes."""


class MemoryFigures(TypedDict):
    """Memory of a training stage."""

    layout: str
    gb: dict[str, float]
    """Of the fullest rank by part, in units of 1e9 bytes."""
    host_gb: dict[str, float]
    """Of a node's host while an interim checkpoint and while the last one is written."""
    fits: bool
    num_fitting: int
    """Layouts on the same number of GPUs that fit."""
    plainest: list[LayoutFigures]


class PlanFigures(TypedDict):
    """All figures of a plan, as JSON values."""

    name: str
    assumptions: dict[str, object]
    """The ``plan`` part of the pipeline file, without its corpora."""
    stages: list[StageFigures]
    memory: dict[str, MemoryFigures]
    """By training stage."""
    growth: Growth
    gpu_hours: float
    price: float | None
    disk_gb: float


def collect(pipeline: Pipeline) -> PlanFigures:
    """Compute all figures of the plan.

    Raises:
        UserError: a figure that the plan needs is missing.
    """
    plan = pipeline.plan
    found = costs(pipeline)
    gpu_hours = sum(cost.gpu_hours for cost in found)
    return {
        "name": pipeline.name,
        "assumptions": plan.model_dump(exclude={"corpora"}),
        "stages": [
            {
                "stage": cost.stage,
                "kind": cost.kind,
                "gpus": cost.gpus,
                "tokens": cost.num_tokens,
                "exaflops": cost.flops / 1e18,
                "tokens_per_second": cost.tokens_per_second,
                "hours": cost.hours,
                "gpu_hours": cost.gpu_hours,
            }
            for cost in found
        ],
        "memory": {stage: _memory(pipeline, stage) for stage in _trained(pipeline)},
        "growth": growth(pipeline),
        "gpu_hours": gpu_hours,
        "price": plan.price_per_gpu_hour and gpu_hours * plan.price_per_gpu_hour,
        "disk_gb": total_disk_bytes(pipeline, found) / 1e9,
    }


def _trained(pipeline: Pipeline) -> list[str]:
    return [name for name, settings in pipeline.stages.items() if isinstance(settings, Train)]


def _memory(pipeline: Pipeline, stage: str) -> MemoryFigures:
    recipe, settings = recipe_of(pipeline, stage), pipeline.stages[stage]
    assert isinstance(settings, Train)
    own, host = highest(recipe), host_memory(recipe)
    others = fitting(recipe, pipeline.plan, settings.global_batch_size)
    return {
        "layout": _layout(Fit(recipe, own)),
        "gb": {part: getattr(own, part) / 1e9 for part in PARTS},
        "host_gb": {"interim": host.interim / 1e9, "last": host.last / 1e9},
        "fits": own.total <= usable_bytes(pipeline.plan),
        "num_fitting": len(others),
        "plainest": [
            {"layout": _layout(fit), "gb": fit.memory.total / 1e9} for fit in others[:MOST_LAYOUTS]
        ],
    }


def _layout(fit: Fit) -> str:
    """E.g. ``TP2 CP4 DP8``."""
    launch = fit.recipe.launch
    sizes = {
        "TP": launch.tensor_parallel,
        "PP": launch.pipeline_parallel,
        "VPP": launch.virtual_pipeline,
        "CP": launch.context_parallel,
        "EP": launch.expert_parallel,
        "DP": fit.recipe.data_parallel,
    }
    words = [f"{name}{size}" for name, size in sizes.items() if size > 1]
    words += ["recomputed"] * (fit.recipe.recompute == "full")
    words += ["sharded optimizer"] * launch.distributed_optimizer
    return " ".join(words) or "one rank"


def show(figures: PlanFigures) -> None:
    """Print the plan as tables."""
    console = Console()
    given = figures["assumptions"]
    gpu = f"{given['gpu']} of {given['gpu_memory_gb']:g} GB"
    say(f"{figures['name']}: {gpu}, MFU {given['mfu']:g}")
    console.print(_stage_table(figures))
    console.print(_memory_table(figures))
    for stage, row in figures["memory"].items():
        others = "; ".join(f"{o['layout']} ({o['gb']:.0f} GB)" for o in row["plainest"])
        fits = "" if row["fits"] else "DOES NOT FIT; "
        say(f"{stage}: {fits}{row['num_fitting']} layouts of as many GPUs fit: {others or 'none'}")
        host = row["host_gb"]
        say(
            f"{stage}: a node's host needs {host['interim']:.0f} GB to save on the way, "
            f"{host['last']:.0f} GB for the last save and to gather a checkpoint"
        )
    price = f", {figures['price']:,.0f} at the stated price" if figures["price"] else ""
    say(f"{figures['gpu_hours']:,.0f} GPU hours{price}; disk {figures['disk_gb']:,.0f} GB")
    for stage, by_gpus in figures["growth"].items():
        hours = ", ".join(
            f"{gpus}: {both[0]:.1f} to {both[1]:.1f}" if both else f"{gpus}: does not fit"
            for gpus, both in by_gpus.items()
        )
        say(f"{stage}, hours by GPUs: {hours}")


def _stage_table(figures: PlanFigures) -> Table:
    table = Table(box=SIMPLE, show_footer=True)
    table.add_column("stage", footer="total")
    for column in ("GPUs", "tokens", "tokens/s", "hours"):
        table.add_column(column, justify="right")
    table.add_column("GPU hours", justify="right", footer=f"{figures['gpu_hours']:,.0f}")
    for row in figures["stages"]:
        table.add_row(
            row["stage"],
            f"{row['gpus']:,}" if row["gpus"] else "-",
            f"{row['tokens'] / 1e6:,.0f} M",
            f"{row['tokens_per_second']:,.0f}" if row["hours"] else "-",
            f"{row['hours']:,.1f}" if row["hours"] else "-",
            f"{row['gpu_hours']:,.0f}" if row["hours"] else "-",
        )
    return table


def _memory_table(figures: PlanFigures) -> Table:
    memory = Table(box=SIMPLE, title="Memory of the fullest rank, GB", title_justify="left")
    memory.add_column("stage")
    memory.add_column("layout")
    for part in PARTS:
        memory.add_column(part, justify="right")
    for stage, row in figures["memory"].items():
        style = "" if row["fits"] else "red"
        memory.add_row(
            stage, row["layout"], *(f"{row['gb'][part]:.1f}" for part in PARTS), style=style
        )
    return memory


def write_page(figures: PlanFigures, path: Path) -> None:
    """Write the plan as one self-contained HTML file."""
    chart = growth_chart(figures["growth"])
    page = render("planning", "report.html.j2", figures=figures, parts=PARTS, chart=chart)
    write_atomic(path, page.encode())
