"""The command line of ``tools/submit.py``."""

from collections.abc import Sequence
from pathlib import Path

from megatron_dasd.cluster import status, submit
from megatron_dasd.cluster.jobs import JOBS
from megatron_dasd.cluster.nodes import bad_nodes_file, known_bad_nodes
from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.errors import UserError
from megatron_dasd.pipeline.cli import guarded, load, pipeline_parser
from megatron_dasd.pipeline.runner import choose_stages

SCRIPTS = Path(__file__).parents[2] / "slurm"


def main(arguments: Sequence[str] | None = None) -> int:
    """Submit, show what would be, or tell what has become of it; returns the exit status."""
    parser = pipeline_parser("Submit a pipeline's stages that are not up to date to Slurm.")
    parser.add_argument("--from", dest="first", metavar="STAGE", help="start with this stage")
    parser.add_argument("--until", dest="last", metavar="STAGE", help="end with this stage")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the jobs and scripts, submit nothing"
    )
    parser.add_argument("--status", action="store_true", help="tell what has become of the jobs")
    options = parser.parse_args(arguments)

    def run() -> None:
        pipeline = load(options)
        if options.status:
            status.show(status.look(pipeline))
            return
        stages = choose_stages(pipeline, options.first, options.last)
        # as the job will want it: the pipeline file says the rest
        more = [f"--set={override}" for override in options.overrides]
        more += [f"--run-dir={options.run_dir}"] if options.run_dir else []
        _submit(pipeline, stages, more, options.dry_run)

    return guarded(run)


def _submit(pipeline: Pipeline, stages: list[str], more: list[str], dry_run: bool) -> None:
    if not SCRIPTS.is_dir():
        raise UserError(f"{SCRIPTS}: no job scripts here; run tools/submit.py of a checkout")
    plan = submit.make_plan(pipeline, stages, more, ask=not dry_run)
    submit.show(plan, SCRIPTS, pipeline.run_dir / JOBS, with_scripts=dry_run)
    under_way = f", {len(plan.ids)} jobs under way" if plan.ids else ""
    print(f"{len(plan.jobs)} jobs; {plan.num_done} stages up to date{under_way}", flush=True)
    if dry_run:
        return
    for node, reason in known_bad_nodes(pipeline).items():
        print(f"leaving out {node}: {reason} ({bad_nodes_file(pipeline)})", flush=True)
    submit.submit(pipeline, plan, SCRIPTS)
