"""Cores, hours and disk of the stages that compute on cores alone, by measured rates."""

from megatron_dasd.config.base import Settings
from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.config.planning import MEASURED_BYTES
from megatron_dasd.config.sources import MakePrompts
from megatron_dasd.config.training import ExportHf, ImportHf, VerifyConversion
from megatron_dasd.planning.cost import Cost
from megatron_dasd.planning.totals import known_totals, read_totals

_BY_WHAT_IS_MADE = ("import_responses", "preprocess_data", "preprocess_text")
"""Kinds whose work goes by their own result: they tokenise what they keep."""


def data_cost(pipeline: Pipeline, stage: str, weight_bytes: float | None) -> Cost:
    """Cost of a stage that computes on cores alone.

    Args:
        weight_bytes: of the model that a stage converts; None: it converts none.
    """
    settings = pipeline.stages[stage]
    made = known_totals(pipeline, stage)
    work = _work(pipeline, stage, settings, weight_bytes)
    cores = num_cores(pipeline, stage)
    rate = pipeline.plan.cpu_rate(settings.kind)
    hours = work / (rate * cores) / 3600 if rate else 0.0
    tokens = made.num_tokens if made else 0.0
    disk = stored_bytes(settings.kind, tokens)
    if isinstance(settings, ImportHf | ExportHf) and weight_bytes:
        disk = weight_bytes
    return Cost(stage, settings.kind, 0, hours, tokens, disk_bytes=disk, cores=cores)


def stored_bytes(kind: str, num_tokens: float) -> float:
    """Disk of a stage's result."""
    return MEASURED_BYTES.get(kind, 0.0) * num_tokens


def num_cores(pipeline: Pipeline, stage: str) -> int:
    """Cores at work.

    Over MPI, all tasks but one, which hands the work out; else the cores of one task.  A kind that
    has no ``num_workers`` works on one core.
    """
    settings = pipeline.stages[stage]
    asked = pipeline.cluster.resources(stage, settings.kind)
    tasks = (asked.nodes or 1) * (asked.tasks_per_node or 1)
    if settings.stage.over_mpi and tasks > 1:
        return tasks - 1
    if "num_workers" not in type(settings).model_fields:
        return 1
    given: int | None = settings.model_dump(include={"num_workers"})["num_workers"]
    return given or asked.cpus_per_task or pipeline.cluster.cpus_per_task or 1


def _work(pipeline: Pipeline, stage: str, settings: Settings, weight_bytes: float | None) -> float:
    """Of a stage, in the unit of its kind's rate."""
    if isinstance(settings, ImportHf | ExportHf | VerifyConversion):
        return weight_bytes or 0.0
    if isinstance(settings, MakePrompts):
        return pipeline.plan.num_prompts or 0.0
    totals = known_totals(pipeline, stage) if settings.kind in _BY_WHAT_IS_MADE else None
    totals = totals or read_totals(pipeline, stage)
    return totals.num_tokens if totals else 0.0
