"""When each stage of a pipeline can begin and end, and which of them the whole waits for.

A stage begins when all that it reads has ended, as its Slurm job does; room in the cluster is not
looked at.  The critical path is the chain of stages whose lengths add up to the whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.planning.cost import Cost

_BY_PARTS = (
    "sample_teacher",
    "filter_responses",
    "score_student",
    "score_teacher",
    "roll_out_student",
    "continue_teacher",
)
"""Kinds that make each part of their result from one part of what they read."""


@dataclass(frozen=True)
class Step:
    """A stage's place on the time line, in hours from the beginning."""

    stage: str
    waits_for: tuple[str, ...]
    """The stages that it reads."""
    start: float
    """When all of them have ended."""
    end: float
    latest_end: float
    """When it must have ended so that the whole takes no longer."""

    @property
    def hours(self) -> float:
        """From start to end, the stage's own start included."""
        return self.end - self.start

    @property
    def slack(self) -> float:
        """How much longer it may take."""
        return self.latest_end - self.end

    @property
    def critical(self) -> bool:
        """Whether the whole waits for it."""
        return self.slack < 1e-9


def time_line(pipeline: Pipeline, found: Sequence[Cost]) -> list[Step]:
    """Place all stages, each as early as it can begin.

    Args:
        found: the costs of all stages, in running order.
    """
    delay = pipeline.plan.start_seconds / 3600
    reads = {cost.stage: _inputs(pipeline, cost.stage) for cost in found}
    start: dict[str, float] = {}
    end: dict[str, float] = {}
    for cost in found:
        start[cost.stage] = max((end[name] for name in reads[cost.stage]), default=0.0)
        end[cost.stage] = start[cost.stage] + delay + cost.hours
    whole = max(end.values(), default=0.0)
    latest = dict.fromkeys(end, whole)
    for cost in reversed(found):
        begins = latest[cost.stage] - (end[cost.stage] - start[cost.stage])
        for name in reads[cost.stage]:
            latest[name] = min(latest[name], begins)
    return [Step(name, tuple(reads[name]), start[name], end[name], latest[name]) for name in start]


def _inputs(pipeline: Pipeline, stage: str) -> list[str]:
    if pipeline.stages[stage].stage.describes_run:
        return pipeline.ancestors(stage)
    return pipeline.upstream(stage)


def whole_hours(steps: Sequence[Step]) -> float:
    """From the first stage's beginning to the last one's end."""
    return max((step.end for step in steps), default=0.0)


def most_gpus(steps: Sequence[Step], found: Sequence[Cost]) -> int:
    """Most GPUs at work at a time, if every stage begins as early as it can."""
    gpus = {cost.stage: cost.gpus for cost in found}
    return max(
        (
            sum(gpus[other.stage] for other in steps if other.start <= step.start < other.end)
            for step in steps
        ),
        default=0,
    )


def side_by_side(steps: Sequence[Step]) -> list[tuple[str, ...]]:
    """Groups of two stages and more that run at the same time, neither waiting for the other."""
    groups: list[tuple[str, ...]] = []
    for step in steps:
        group = tuple(
            other.stage for other in steps if other.start <= step.start < other.end - 1e-9
        )
        if len(group) > 1 and not any(set(group) <= set(known) for known in groups):
            groups = [known for known in groups if not set(known) <= set(group)]
            groups.append(group)
    return groups


@dataclass(frozen=True)
class Stream:
    """Stages of the critical path that could take up each other's parts as they come."""

    stages: tuple[str, ...]
    hours: float
    """One after the other."""
    hours_as_stream: float
    """At least, with GPUs for all of them at the same time: those of the longest."""


def streams(pipeline: Pipeline, steps: Sequence[Step]) -> list[Stream]:
    """Chains of stages of the critical path each of which works part by part."""
    critical = [step for step in steps if step.critical]
    chains: list[list[Step]] = []
    for step in critical:
        if pipeline.stages[step.stage].kind not in _BY_PARTS:
            continue
        if chains and chains[-1][-1].stage in step.waits_for:
            chains[-1].append(step)
        else:
            chains.append([step])
    return [
        Stream(
            tuple(step.stage for step in chain),
            sum(step.hours for step in chain),
            max(step.hours for step in chain),
        )
        for chain in chains
        if len(chain) > 1
    ]
