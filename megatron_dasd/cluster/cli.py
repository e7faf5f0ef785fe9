"""The commands that submit a pipeline to Slurm and show the state of its jobs."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from megatron_dasd.command_line import (
    Chosen,
    Overrides,
    PipelinePath,
    RunDir,
    guarded,
    spread,
    start_function,
)
from megatron_dasd.printing import say
from megatron_dasd.shipped import shipped_folder

if TYPE_CHECKING:
    from megatron_dasd.config.pipeline import Pipeline


def main(arguments: Sequence[str] | None = None) -> int:
    """Submit a pipeline, or what else the flags ask for; returns the exit status."""
    return start_function(submit, arguments)


@spread
def submit(
    chosen: Chosen,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the jobs and their commands, submit nothing")
    ] = False,
    show_scripts: Annotated[
        bool, typer.Option("--scripts", help="with --dry-run: print the job scripts too")
    ] = False,
    show_status: Annotated[
        bool, typer.Option("--status", help="print the status of the jobs, submit nothing")
    ] = False,
) -> None:
    """Submit a pipeline's stages that are not up to date to Slurm."""
    if show_status:
        status(chosen.pipeline, chosen.run_dir, chosen.overrides)

    def work() -> None:
        from megatron_dasd.config.pipeline import load_pipeline
        from megatron_dasd.pipeline.changes import announce
        from megatron_dasd.pipeline.runner import choose_stages

        loaded = load_pipeline(chosen.pipeline, chosen.run_dir, chosen.overrides)
        stages = choose_stages(loaded, chosen.first, chosen.last)
        announce(loaded, stages, chosen.yes or dry_run)
        # options that each job needs too; the pipeline file holds the rest
        more = [f"--set={override}" for override in chosen.overrides or ()]
        more += [f"--run-dir={chosen.run_dir}"] if chosen.run_dir else []
        _submit(loaded, stages, more, dry_run, show_scripts)

    raise typer.Exit(guarded(work))


def status(pipeline: PipelinePath, run_dir: RunDir = None, overrides: Overrides = None) -> None:
    """Print the status of a pipeline's Slurm jobs."""

    def work() -> None:
        from megatron_dasd.cluster.status import look, show
        from megatron_dasd.config.pipeline import load_pipeline

        show(look(load_pipeline(pipeline, run_dir, overrides)))

    raise typer.Exit(guarded(work))


def _submit(
    pipeline: "Pipeline", stages: list[str], more: list[str], dry_run: bool, show_scripts: bool
) -> None:
    from megatron_dasd.cluster import submit
    from megatron_dasd.cluster.jobs import JOBS
    from megatron_dasd.cluster.nodes import bad_nodes_file, known_bad_nodes

    scripts = shipped_folder("slurm")
    submission = submit.prepare(pipeline, stages, more, ask=not dry_run)
    submit.show(submission)
    if not (scripts / "env.sh").is_file() and "DASD_ENV" not in os.environ:
        advice = "copy env.example beside it and edit it, or set DASD_ENV"
        say(f"{scripts / 'env.sh'}: missing, and every job needs it; {advice}")
    if dry_run:
        submit.show_commands(submission, scripts, pipeline.run_dir / JOBS)
    if dry_run and show_scripts:
        submit.show_scripts(submission, scripts)
    number = len(submission.under_way)
    under_way = f", {number} jobs under way" if number else ""
    done = f"{submission.num_done} stages up to date"
    say(f"{len(submission.jobs)} jobs; {done}{under_way}")
    if dry_run:
        return
    for node, reason in known_bad_nodes(pipeline).items():
        say(f"excluding {node}: {reason} ({bad_nodes_file(pipeline)})")
    submit.submit(pipeline, submission, scripts)
