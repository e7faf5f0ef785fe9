"""Ranks of a distributed program as the tasks of a Slurm step: one process a rank, on all nodes.

The job script runs ``srun``, since the process that needs the step may be in a container without
Slurm.  They meet in a folder, ``DASD_STEPS``::

    request     what to run, a line each: nodes, tasks, tasks a node, log files, module, payload,
                then NAME=VALUE of the environment
    stop        the step is to get SIGUSR1, on which training saves and stops
    status      how it ended

What runs in each task is ``device.task``.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from megatron_dasd.errors import UserError
from megatron_dasd.printing import one_line

STEPS = "DASD_STEPS"
"""Environment variable: the folder; unset: ranks are processes of this machine."""
_REQUEST, _STOP, _STATUS = "request", "stop", "status"
_POLL_SECONDS = 0.2


def steps_folder() -> Path | None:
    """Folder for requests of steps; None: nobody runs them.

    Raises:
        UserError: what is named is no folder.
    """
    name = os.environ.get(STEPS)
    if not name:
        return None
    if not Path(name).is_dir():
        raise UserError(f"{STEPS}={name}: no such folder; only slurm/common.sh sets it")
    return Path(name)


def step_request(
    module: str, payload: Path, num_ranks: int, log_dir: Path, environment: Mapping[str, str]
) -> str:
    """A request for the job script.

    Raises:
        UserError: the ranks do not divide among the nodes.
    """
    num_nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
    if num_ranks % num_nodes:
        raise UserError(
            f"{num_ranks} ranks (launch.num_ranks) do not divide among the {num_nodes} nodes of "
            f"job {os.environ['SLURM_JOB_ID']}; submit it with another number of nodes"
        )
    log = log_dir.absolute() / "rank-%t.log"
    lines = [num_nodes, num_ranks, num_ranks // num_nodes, log, module, payload.absolute()]
    lines += [f"{name}={value}" for name, value in environment.items()]
    # settings refuse line breaks in paths; here none may shift the lines in any case
    return "".join(f"{one_line(str(line))}\n" for line in lines)


def run_step(
    steps: Path, request: str, stops: Sequence[signal.Signals], on_poll: Callable[[], None]
) -> int:
    """Have a step run to its end; returns its exit status.

    Args:
        stops: signals that this process got; each is passed on to the step once.
        on_poll: called several times a second.
    """
    status = steps / _STATUS
    status.unlink(missing_ok=True)
    _write(steps / _REQUEST, request)
    num_passed_on = 0
    while not status.exists():
        if len(stops) > num_passed_on:
            num_passed_on = len(stops)
            _write(steps / _STOP, "")
        on_poll()
        time.sleep(_POLL_SECONDS)
    on_poll()
    return int(status.read_text())


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)
