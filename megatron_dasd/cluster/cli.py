"""The command line of ``tools/submit.py``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_dasd.errors import UserError
from megatron_dasd.pipeline.cli import guarded, load, pipeline_parser
from megatron_dasd.printing import say

if TYPE_CHECKING:
    from megatron_dasd.config.pipeline import Pipeline

SCRIPTS = Path(__file__).parents[2] / "slurm"


def main(arguments: Sequence[str] | None = None) -> int:
    """Submit a pipeline, print what would be submitted, or print its status.

    Returns the exit status.
    """
    parser = pipeline_parser("Submit a pipeline's stages that are not up to date to Slurm.")
    parser.add_argument("--from", dest="first", metavar="STAGE", help="start with this stage")
    parser.add_argument("--until", dest="last", metavar="STAGE", help="end with this stage")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the jobs and scripts, submit nothing"
    )
    parser.add_argument("--status", action="store_true", help="print the status of the jobs")
    options = parser.parse_args(arguments)

    def run() -> None:
        from megatron_dasd.cluster import status
        from megatron_dasd.pipeline.runner import choose_stages

        pipeline = load(options)
        if options.status:
            status.show(status.look(pipeline))
            return
        stages = choose_stages(pipeline, options.first, options.last)
        # options that each job needs too; the pipeline file holds the rest
        more = [f"--set={override}" for override in options.overrides]
        more += [f"--run-dir={options.run_dir}"] if options.run_dir else []
        _submit(pipeline, stages, more, options.dry_run)

    return guarded(run)


def _submit(pipeline: "Pipeline", stages: list[str], more: list[str], dry_run: bool) -> None:
    from megatron_dasd.cluster import submit
    from megatron_dasd.cluster.jobs import JOBS
    from megatron_dasd.cluster.nodes import bad_nodes_file, known_bad_nodes

    if not SCRIPTS.is_dir():
        raise UserError(f"{SCRIPTS}: no job scripts here; run tools/submit.py of a checkout")
    submission = submit.prepare(pipeline, stages, more, ask=not dry_run)
    submit.show(submission, SCRIPTS, pipeline.run_dir / JOBS, with_scripts=dry_run)
    number = len(submission.under_way)
    under_way = f", {number} jobs under way" if number else ""
    done = f"{submission.num_done} stages up to date"
    say(f"{len(submission.jobs)} jobs; {done}{under_way}")
    if dry_run:
        return
    for node, reason in known_bad_nodes(pipeline).items():
        say(f"excluding {node}: {reason} ({bad_nodes_file(pipeline)})")
    submit.submit(pipeline, submission, SCRIPTS)
