"""Commands of Slurm: submit a job, query the states of jobs."""

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_dasd.errors import UserError

LIVE = {
    "PENDING",
    "RUNNING",
    "CONFIGURING",
    "COMPLETING",
    "SUSPENDED",
    "REQUEUED",
    "RESIZING",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "SIGNALING",
    "STAGE_OUT",
    "STOPPED",
    "SPECIAL_EXIT",
}
"""States of jobs that are not over."""
SUCCEEDED = "COMPLETED"


@dataclass(frozen=True)
class State:
    """The state of a job, as Slurm reports it."""

    state: str
    reason: str = ""
    """Why a pending job waits."""
    nodes: str = ""

    @property
    def is_live(self) -> bool:
        """Whether it waits or runs."""
        return self.state in LIVE


def sbatch(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Submit a job; returns its number.

    Raises:
        UserError: Slurm refuses it, or is not installed here.
    """
    output = _run(command, environment)
    return output.split(";")[0].strip()  # with several clusters the cluster's name follows


def states(ids: Iterable[str]) -> dict[str, State]:
    """States of jobs by number; jobs that Slurm no longer knows are left out.

    Raises:
        UserError: Slurm is not installed here.
    """
    numbers = sorted(set(ids))
    if not numbers:
        return {}
    # Lists all of the user's jobs: squeue fails on a number that it no longer knows.
    user = str(os.getuid())
    listed = _run(
        ["squeue", "--noheader", "--states=all", f"--user={user}", "--format=%i|%T|%r|%N"]
    )
    found = {}
    for line in listed.splitlines():
        number, state, reason, nodes = line.split("|", 3)
        if number in numbers:
            found[number] = State(state, "" if reason == "None" else reason, nodes)
    forgotten = [number for number in numbers if number not in found]
    return found | (_accounted(forgotten) if forgotten else {})


def _accounted(ids: Sequence[str]) -> dict[str, State]:
    """States from Slurm's accounting; none where it is not set up."""
    command = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(ids)}"]
    try:
        listed = _run([*command, "--format=JobID,State,NodeList"])
    except UserError:
        return {}
    found = {}
    for line in listed.splitlines():
        number, state, nodes = line.split("|", 2)
        found[number] = State(state.split()[0], nodes=nodes)  # "CANCELLED by 1000"
    return found


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            env=os.environ | dict(environment or {}),
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise UserError(
            f"{command[0]} is not installed here: run this on a cluster's login node"
        ) from None
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise UserError(f"{Path(command[0]).name}: {reason}")
    return done.stdout
