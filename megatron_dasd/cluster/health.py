"""The health check of a node: run on every node of a job, it prints the node's name and its fault.

A site adds its own check as ``DASD_HEALTH_COMMAND``, a shell command that fails on a bad node.
"""

import os
import shutil
import socket
import subprocess
from pathlib import Path

from megatron_dasd.printing import say

_SHARED_MEMORY = Path("/dev/shm")
_LEAST_SHARED_BYTES = 1 << 28
"""NCCL's buffers between processes of a node, and data loaders, use shared memory."""
_SECONDS = 60
_GPU_QUERY = [
    "nvidia-smi",
    "--query-gpu=index,ecc.errors.uncorrected.volatile.total",
    "--format=csv,noheader,nounits",
]


def what_is_wrong() -> str:
    """The node's fault in one line; empty: none."""
    try:
        return _shared_memory() or _gpus() or _own_check()
    except (OSError, ValueError) as error:
        return f"cannot be checked: {' '.join(str(error).split())}"


def _shared_memory() -> str:
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if free < _LEAST_SHARED_BYTES:
        return f"{_SHARED_MEMORY}: {free / 1e6:.0f} MB free, needs {_LEAST_SHARED_BYTES / 1e6:.0f}"
    return ""


def _gpus() -> str:
    """The fault of a GPU that Slurm gave to the job, as the driver reports it."""
    allocated = [x for x in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if x]
    if not allocated or not shutil.which("nvidia-smi"):
        return ""
    try:
        done = subprocess.run(
            _GPU_QUERY, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"nvidia-smi does not answer within {_SECONDS} s"
    if done.returncode:
        return f"nvidia-smi: {' '.join(done.stdout.split() + done.stderr.split())[:200]}"
    rows = [line.split(", ") for line in done.stdout.splitlines() if line.strip()]
    if len(rows) < len(allocated):
        return f"{len(rows)} GPUs answer, {len(allocated)} are given"
    broken = [index for index, errors in rows if errors.isdigit() and int(errors)]
    return f"uncorrected memory errors of GPU {', '.join(broken)}" if broken else ""


def _own_check() -> str:
    command = os.environ.get("DASD_HEALTH_COMMAND")
    if not command:
        return ""
    try:
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"DASD_HEALTH_COMMAND does not end within {_SECONDS} s"
    if done.returncode == 0:
        return ""
    output = " ".join((done.stdout + done.stderr).split())[:200]
    return output or f"DASD_HEALTH_COMMAND ends with status {done.returncode}"


if __name__ == "__main__":
    say(f"{os.environ.get('SLURMD_NODENAME', socket.gethostname())}\t{what_is_wrong()}")
