"""Submits a pipeline to Slurm as a graph of jobs; a second time, what is not done or under way."""

import json
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.cluster import queue
from megatron_dasd.cluster.jobs import JOBS, NUMBERS, SERVE, SlurmJob, plan_jobs
from megatron_dasd.cluster.nodes import known_bad_nodes
from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import read_as
from megatron_dasd.pipeline.runner import stages_to_run
from megatron_dasd.printing import say

WIDTH = 80
_NAME = 27
"""Columns of a job's name."""


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
    """Print the graph of jobs, replicas of a server as one line, at most 80 columns wide."""
    for line in graph_lines(submission.jobs):
        say(line)


def graph_lines(jobs: Sequence[SlurmJob]) -> Iterator[str]:
    """Yield the lines of the graph: each job's size, and under it the jobs that it waits for."""
    families = _families(jobs)
    known = {name: family for family, names in families.items() for name in names}
    yield f"{'job':{_NAME}}{'jobs':>5}{'nodes x ranks':>15}{'GPUs a node':>13}{'time':>12}"
    for family, names in families.items():
        job = next(job for job in jobs if job.name == names[0])
        size = f"{job.nodes} x {job.tasks_per_node}"
        yield from _named(
            family, f"{len(names):>5}{size:>15}{job.gpus_per_node or '-':>13}{job.time:>12}"
        )
        waits = {"after": job.after_ok, "after the start of": job.after_start}
        for words, others in (waits | {"after the end of": job.after_any}).items():
            if others:
                of = ", ".join(dict.fromkeys(known.get(name, name) for name in others))
                yield from wrap(
                    f"    {words} {of}", WIDTH, subsequent_indent=8 * " ", break_on_hyphens=False
                )


def _families(jobs: Sequence[SlurmJob]) -> dict[str, list[str]]:
    """Jobs by what they are: a stage, or all replicas of a server."""
    families: dict[str, list[str]] = {}
    for job in jobs:
        family = job.name.rpartition("_")[0] if job.script == SERVE else job.name
        families.setdefault(family, []).append(job.name)
    return families


def _named(name: str, rest: str) -> Iterator[str]:
    """A line that begins with a job's name; two lines, where the name is longer than others."""
    if len(name) > _NAME:
        yield name
        name = ""
    yield f"{name:{_NAME}}{rest}"


def show_commands(submission: Submission, scripts: Path, logs: Path) -> None:
    """Print the command that submits each job, with names in place of numbers not known yet.

    Of the replicas of a server one command is printed, and the variables that all jobs share once.
    """
    placeholders = {job.name: f"<{job.name}>" for job in submission.jobs}
    shared: dict[str, str] = {}
    for names in _families(submission.jobs).values():
        job = next(job for job in submission.jobs if job.name == names[0])
        if job.environment and dict(job.environment) != shared:
            shared = dict(job.environment)
            settings = [f"{name}={shlex.quote(value)}" for name, value in shared.items()]
            say(f"\nexport {' '.join(settings)}")
        command = job.command(submission.under_way | placeholders, scripts, logs)
        say(f"\n{shlex.join(command)}")
        if len(names) > 1:
            say(f"and the same for {names[1]} to {names[-1]}" if names[2:] else f"and {names[1]}")


def show_scripts(submission: Submission, scripts: Path) -> None:
    """Print each job script once."""
    for script in sorted({job.script for job in submission.jobs}):
        path = scripts / f"{script}.sbatch"
        say(f"\n--- {path}\n{path.read_text()}")
