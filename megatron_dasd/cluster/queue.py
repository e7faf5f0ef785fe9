"""What Slurm is asked: jobs put into its queue, their states."""

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_dasd.errors import UserError

LIVE = {
    *("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING"),
    *("REQUEUE_HOLD", "REQUEUE_FED", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT"),
}
"""States of jobs that are not over."""
SUCCEEDED = "COMPLETED"


@dataclass(frozen=True)
class State:
    """What Slurm says of a job."""

    state: str
    reason: str = ""
    """Of a job that waits."""
    nodes: str = ""
    restarts: int = 0

    @property
    def is_live(self) -> bool:
        """Whether it waits or runs."""
        return self.state in LIVE


def sbatch(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Put a job into the queue; returns its number.

    Raises:
        UserError: Slurm refuses it, or is not there.
    """
    answer = _run(command, environment)
    return answer.split(";")[0].strip()  # on several clusters it is followed by the cluster's name


def states(ids: Iterable[str]) -> dict[str, State]:
    """States of jobs by their number; those that Slurm has forgotten are left out.

    Raises:
        UserError: Slurm is not there.
    """
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    # asked for all of the user's jobs: a number that is not known any more would be an error
    user = str(os.getuid())
    listed = _run(
        ["squeue", "--noheader", "--states=all", f"--user={user}", "--format=%i|%T|%r|%N"]
    )
    found = {}
    for line in listed.splitlines():
        number, state, reason, nodes = line.split("|", 3)
        if number in wanted:
            found[number] = State(state, "" if reason == "None" else reason, nodes)
    forgotten = [number for number in wanted if number not in found]
    return found | (_accounted(forgotten) if forgotten else {})


def _accounted(ids: Sequence[str]) -> dict[str, State]:
    """States from the accounting, where there is one."""
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
        raise UserError(f"{command[0]} is not here: run this on a cluster's login node") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise UserError(f"{Path(command[0]).name}: {said}")
    return done.stdout
