"""Bad nodes: a check on every node of a job finds them, and later submits exclude them."""

from pathlib import Path

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.cluster.jobs import JOBS
from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.errors import UserError


def bad_nodes_file(pipeline: Pipeline) -> Path:
    """The file of bad nodes: one line each, name, tab, reason."""
    return pipeline.run_dir / JOBS / "bad_nodes"


def known_bad_nodes(pipeline: Pipeline) -> dict[str, str]:
    """Reasons by name of the bad nodes found so far."""
    path = bad_nodes_file(pipeline)
    lines = path.read_text().splitlines() if path.exists() else []
    return {line.split("\t")[0]: line.partition("\t")[2] for line in lines if line.strip()}


def bad_nodes(report: str, num_nodes: int) -> dict[str, str]:
    """Reasons by name of the bad nodes of this job.

    Args:
        report: one line a node: name, tab, what is wrong or nothing.

    Raises:
        UserError: not all nodes have answered, and none of those is bad.
    """
    answers = dict(line.split("\t", 1) for line in report.splitlines() if "\t" in line)
    bad = {node: wrong for node, wrong in answers.items() if wrong}
    if len(answers) < num_nodes and not bad:
        raise UserError(
            f"the health check ran on {len(answers)} of {num_nodes} nodes; srun's error is above"
        )
    return bad


def remember_bad_nodes(pipeline: Pipeline, bad: dict[str, str]) -> None:
    """Add nodes to the file; later submits exclude them."""
    path = bad_nodes_file(pipeline)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{node}\t{reason}\n" for node, reason in (known_bad_nodes(pipeline) | bad).items()]
    write_atomic(path, "".join(lines).encode())
