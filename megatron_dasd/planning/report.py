"""The plan of a pipeline, on the terminal and as a page: its figures and how they are shown."""

from pathlib import Path
from typing import TypedDict

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.config.training import Train
from megatron_dasd.pages.render import render
from megatron_dasd.planning.estimate import costs, recipe_of
from megatron_dasd.planning.growth import Growth, growth, growth_chart
from megatron_dasd.planning.host_memory import host_memory
from megatron_dasd.planning.layouts import Fit, fitting, usable_bytes
from megatron_dasd.planning.memory import highest
from megatron_dasd.planning.text import plan_text
from megatron_dasd.planning.timeline import (
    most_gpus,
    side_by_side,
    streams,
    time_line,
    whole_hours,
)
from megatron_dasd.printing import say

PARTS = ("weights", "gradients", "optimizer", "activations", "loss", "total")
MOST_LAYOUTS = 6
"""Layouts shown for each training stage."""


class StageFigures(TypedDict):
    """Cost of a stage."""

    stage: str
    kind: str
    gpus: int
    cores: int
    """At work; 0: the stage computes on GPUs, or waits for servers."""
    tokens: float
    exaflops: float
    """1e18 operations."""
    tokens_per_second: float
    hours: float
    gpu_hours: float
    disk_gb: float


class StepFigures(TypedDict):
    """A stage's place on the time line, in hours from the beginning."""

    stage: str
    waits_for: list[str]
    start: float
    end: float
    slack: float
    """How much longer it may take."""
    critical: bool
    """Whether the whole waits for it."""


class StreamFigures(TypedDict):
    """Stages that could take up each other's parts as they come."""

    stages: list[str]
    hours: float
    hours_as_stream: float


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
    time_line: list[StepFigures]
    hours: float
    """From the first stage's beginning to the last one's end."""
    most_gpus: int
    """At work at a time, if every stage begins as early as it can."""
    side_by_side: list[list[str]]
    """Groups of stages that run at the same time."""
    streams: list[StreamFigures]
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
    steps = time_line(pipeline, found)
    return {
        "name": pipeline.name,
        "assumptions": plan.model_dump(exclude={"corpora"}),
        "stages": [
            {
                "stage": cost.stage,
                "kind": cost.kind,
                "gpus": cost.gpus,
                "cores": cost.cores,
                "tokens": cost.num_tokens,
                "exaflops": cost.flops / 1e18,
                "tokens_per_second": cost.tokens_per_second,
                "hours": cost.hours,
                "gpu_hours": cost.gpu_hours,
                "disk_gb": cost.disk_bytes / 1e9,
            }
            for cost in found
        ],
        "memory": {stage: _memory(pipeline, stage) for stage in _trained(pipeline)},
        "growth": growth(pipeline),
        "time_line": [
            {
                "stage": step.stage,
                "waits_for": list(step.waits_for),
                "start": step.start,
                "end": step.end,
                "slack": step.slack,
                "critical": step.critical,
            }
            for step in steps
        ],
        "hours": whole_hours(steps),
        "most_gpus": most_gpus(steps, found),
        "side_by_side": [list(group) for group in side_by_side(steps)],
        "streams": [
            {
                "stages": list(stream.stages),
                "hours": stream.hours,
                "hours_as_stream": stream.hours_as_stream,
            }
            for stream in streams(pipeline, steps)
        ],
        "gpu_hours": gpu_hours,
        "price": plan.price_per_gpu_hour and gpu_hours * plan.price_per_gpu_hour,
        "disk_gb": sum(cost.disk_bytes for cost in found) / 1e9,
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
    """Print the plan, at most 80 columns wide."""
    for line in plan_text(figures):
        say(line)


def write_page(figures: PlanFigures, path: Path) -> None:
    """Write the plan as one self-contained HTML file."""
    chart = growth_chart(figures["growth"])
    page = render("planning", "report.html.j2", figures=figures, parts=PARTS, chart=chart)
    write_atomic(path, page.encode())
