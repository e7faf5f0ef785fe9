"""A pipeline put into Slurm's queue as a graph of jobs; a second time, what is left of it."""

import json
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.cluster import queue
from megatron_dasd.cluster.jobs import JOBS, NUMBERS, Job, plan_jobs
from megatron_dasd.cluster.nodes import known_bad_nodes
from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.errors import UserError
from megatron_dasd.pipeline.runner import stages_to_run


@dataclass(frozen=True)
class Plan:
    """What is to be put into the queue."""

    jobs: list[Job]
    ids: dict[str, str]
    """Numbers of jobs of an earlier submit that still wait or run."""
    num_done: int
    """Stages that are up to date."""


def make_plan(
    pipeline: Pipeline, stages: Collection[str], more: Sequence[str], ask: bool = True
) -> Plan:
    """Find what is left to do.

    Args:
        stages: those that are wanted, in running order.
        more: options of the pipeline's command line for each stage's job.
        ask: whether Slurm is asked for jobs that wait or run already.

    Raises:
        UserError: an input that is not among the stages has not finished and is not under way.
    """
    left = stages_to_run(pipeline, stages)
    known = job_numbers(pipeline)
    running = queue.states(known.values()) if ask and known else {}
    live = {name: n for name, n in known.items() if n in running and running[n].is_live}
    for stage in left:
        for name in stages_to_run(pipeline, pipeline.upstream(stage)):
            if name not in left and name not in live:
                raise UserError(
                    f"{pipeline.path}: {stage} reads {name}, which has not finished; submit from "
                    "that stage on"
                )
    jobs = [job for job in plan_jobs(pipeline, left, more) if job.name not in live]
    return Plan(jobs, live, len(stages) - len(left))


def submit(pipeline: Pipeline, plan: Plan, scripts: Path) -> dict[str, str]:
    """Put the jobs into the queue; returns their numbers, those of earlier ones too.

    Each number is on the disk before the next job is submitted: what is killed on the way goes on.

    Raises:
        UserError: Slurm refuses a job.
    """
    place = pipeline.run_dir / JOBS
    place.mkdir(parents=True, exist_ok=True)
    ids = dict(plan.ids)
    bad = known_bad_nodes(pipeline)
    for job in plan.jobs:
        command = job.command(ids, scripts, place, bad)
        ids[job.name] = queue.sbatch(command, {**job.environment, "DASD_HOME": str(scripts.parent)})
        numbers = job_numbers(pipeline) | ids
        write_atomic(place / NUMBERS, json.dumps(numbers, indent=2).encode())
        print(f"{job.name}: job {ids[job.name]}", flush=True)
    return ids


def job_numbers(pipeline: Pipeline) -> dict[str, str]:
    """Numbers of the jobs that were submitted, the newest of each name.

    Raises:
        UserError: their file is damaged.
    """
    path = pipeline.run_dir / JOBS / NUMBERS
    try:
        found: dict[str, str] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        raise UserError(f"{path}: damaged; delete it once none of its jobs is running") from None
    return found


def show(plan: Plan, scripts: Path, logs: Path, with_scripts: bool = False) -> None:
    """Print the graph of jobs; and each command and script as they are sent."""
    table = Table(box=SIMPLE, title="Jobs", title_justify="left")
    for column in ("job", "script", "nodes x ranks", "GPUs a node", "time", "after"):
        table.add_column(column)
    for job in plan.jobs:
        waits = [*job.after_ok, *(f"start of {name}" for name in job.after_start)]
        waits += [f"end of {name}" for name in job.after_any]
        table.add_row(
            job.name,
            job.script,
            f"{job.nodes} x {job.tasks_per_node}",
            str(job.gpus_per_node or "-"),
            job.time,
            ", ".join(waits) or "-",
        )
    Console().print(table)
    if not with_scripts:
        return
    placeholders = {job.name: f"<{job.name}>" for job in plan.jobs}
    for job in plan.jobs:
        settings = [f"{name}={shlex.quote(value)}" for name, value in job.environment.items()]
        print(*settings, shlex.join(job.command(plan.ids | placeholders, scripts, logs)))
    for script in sorted({job.script for job in plan.jobs}):
        path = scripts / f"{script}.sbatch"
        print(f"\n--- {path}\n{path.read_text()}")
