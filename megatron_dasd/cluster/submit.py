"""Submits a pipeline to Slurm as a graph of jobs; a second time, what is not done or under way."""

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
from megatron_dasd.cluster.jobs import JOBS, NUMBERS, SlurmJob, plan_jobs
from megatron_dasd.cluster.nodes import known_bad_nodes
from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import read_as
from megatron_dasd.pipeline.runner import stages_to_run
from megatron_dasd.printing import say


@dataclass(frozen=True)
class Submission:
    """The jobs to submit, and what needs none."""

    jobs: list[SlurmJob]
    under_way: dict[str, str]
    """Numbers by name of jobs of an earlier submit that still wait or run."""
    num_done: int
    """Number of stages that are up to date."""


def prepare(
    pipeline: Pipeline, stages: Collection[str], more: Sequence[str], ask: bool = True
) -> Submission:
    """Find the jobs that have to be submitted.

    Args:
        stages: the stages to bring up to date, in running order.
        more: options of the pipeline's command line for each stage's job.
        ask: whether to query Slurm for jobs that wait or run already.

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
    return Submission(jobs, live, len(stages) - len(left))


def submit(pipeline: Pipeline, submission: Submission, scripts: Path) -> dict[str, str]:
    """Submit the jobs; returns their numbers by name, with those under way.

    Each number is written before the next job is submitted, so a submit that is killed resumes.

    Raises:
        UserError: Slurm refuses a job.
    """
    place = pipeline.run_dir / JOBS
    place.mkdir(parents=True, exist_ok=True)
    ids = dict(submission.under_way)
    bad = known_bad_nodes(pipeline)
    for job in submission.jobs:
        command = job.command(ids, scripts, place, bad)
        ids[job.name] = queue.sbatch(command, {**job.environment, "DASD_HOME": str(scripts.parent)})
        numbers = job_numbers(pipeline) | ids
        write_atomic(place / NUMBERS, json.dumps(numbers, indent=2).encode())
        say(f"{job.name}: job {ids[job.name]}")
    return ids


def job_numbers(pipeline: Pipeline) -> dict[str, str]:
    """Number of the newest submitted job of each name.

    Raises:
        UserError: the file that keeps them is damaged.
    """
    path = pipeline.run_dir / JOBS / NUMBERS
    try:
        return read_as(path, dict[str, str], "delete it once none of its jobs is running")
    except FileNotFoundError:
        return {}


def show(submission: Submission) -> None:
    """Print the graph of jobs."""
    table = Table(box=SIMPLE, title="Jobs", title_justify="left", pad_edge=False)
    for column in ("job", "script", "nodes x ranks", "GPUs a node", "time", "after"):
        table.add_column(column, overflow="fold")
    for job in submission.jobs:
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


def show_commands(submission: Submission, scripts: Path, logs: Path) -> None:
    """Print the command that submits each job, with names in place of numbers not known yet."""
    placeholders = {job.name: f"<{job.name}>" for job in submission.jobs}
    for job in submission.jobs:
        settings = [f"{name}={shlex.quote(value)}" for name, value in job.environment.items()]
        command = job.command(submission.under_way | placeholders, scripts, logs)
        say(shlex.join(command) if not settings else f"{' '.join(settings)} {shlex.join(command)}")


def show_scripts(submission: Submission, scripts: Path) -> None:
    """Print each job script once."""
    for script in sorted({job.script for job in submission.jobs}):
        path = scripts / f"{script}.sbatch"
        say(f"\n--- {path}\n{path.read_text()}")
