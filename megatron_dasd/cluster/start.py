"""Checks of a job before its stage starts: bad nodes, and restarts that make no progress.

``python -m megatron_dasd.cluster.start REPORT PIPELINE STAGE [OPTIONS]`` exits with status 0: run
the stage; 2: do not; 75: nodes are bad, restart on others.  REPORT is the output of
``cluster.health``.  Where several tasks of the job share the stage's work over MPI, it makes the
file ``mpi`` in the folder ``DASD_STEPS``, which the job script looks for.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.cluster.jobs import JOBS
from megatron_dasd.cluster.nodes import bad_nodes, remember_bad_nodes
from megatron_dasd.config.pipeline import Pipeline, load_pipeline
from megatron_dasd.device.srun import steps_folder
from megatron_dasd.errors import STOPPED_STATUS, UserError
from megatron_dasd.json_values import read_as
from megatron_dasd.last_net import guard
from megatron_dasd.manifests import ATTEMPT, LOCK, LOGS
from megatron_dasd.printing import say

_TRANSIENT = (LOGS, LOCK, ATTEMPT)
"""Files of a stage's folder that come and go without any progress."""


class _Start(TypedDict):
    """One start of a stage, as the file of starts keeps it."""

    job: str
    marker: str
    """See :func:`progress_marker`."""
    time: int
    """Seconds since the epoch."""


def main() -> int:
    """Check; what is wrong is printed in one line.  Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("stage")
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    return guard(lambda: _check(options))


def _check(options: argparse.Namespace) -> int:
    pipeline = load_pipeline(options.pipeline, options.run_dir, options.overrides)
    if options.stage not in pipeline.stages:
        raise UserError(f"{pipeline.path}: no stage {options.stage}")
    bad = bad_nodes(options.report.read_text(), int(os.environ["SLURM_JOB_NUM_NODES"]))
    if bad:
        for node, reason in bad.items():
            say(f"error: node {node}: {reason}", sys.stderr)
        remember_bad_nodes(pipeline, bad)
        return STOPPED_STATUS
    note_start(pipeline, options.stage, os.environ["SLURM_JOB_ID"])
    _note_mpi(pipeline.stages[options.stage].works_over_mpi)
    return 0


def note_start(pipeline: Pipeline, stage: str, job: str) -> None:
    """Record that a job starts a stage, with a marker of the work done so far.

    Raises:
        UserError: ``max_fruitless_starts`` starts of the job have made no progress.
    """
    path = pipeline.run_dir / JOBS / "starts" / f"{stage}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    starts = read_as(path, list[_Start], "delete it") if path.exists() else []
    starts = [start for start in starts if start["job"] == job]  # each submit counts from 0
    marker = progress_marker(pipeline.stage_dir(stage))
    fruitless = 0
    for start in reversed(starts):
        if start["marker"] != marker:
            break
        fruitless += 1
    starts.append({"job": job, "marker": marker, "time": round(time.time())})
    write_atomic(path, json.dumps(starts, indent=2).encode())
    most = pipeline.cluster.max_fruitless_starts
    if fruitless >= most:
        raise UserError(
            f"stage {stage}: {fruitless} starts of job {job} without progress "
            f"(max_fruitless_starts {most}); look at {pipeline.stage_dir(stage) / LOGS} and at the "
            "job's log, fix the cause, and submit again"
        )


def _note_mpi(over_mpi: bool) -> None:
    steps = steps_folder()
    if steps and over_mpi and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        (steps / "mpi").touch()


def progress_marker(folder: Path) -> str:
    """A hash of the file names in a stage's folder, which changes with every piece of work done."""
    names = sorted(_durable(folder, depth=2)) if folder.exists() else []
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _durable(folder: Path, depth: int, prefix: str = "") -> Iterator[str]:
    for entry in folder.iterdir():
        is_scratch = entry.name.endswith(".tmp") and prefix
        if entry.name in _TRANSIENT or is_scratch or entry.name.startswith(".nfs"):
            continue
        yield f"{prefix}{entry.name}"
        if depth > 1 and entry.is_dir():
            yield from _durable(entry, depth - 1, f"{prefix}{entry.name}/")


if __name__ == "__main__":
    sys.exit(main())
