"""How soon a command answers."""

import resource
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.figures import Row, at_most

PEER = "import pydantic, typer"
HELP = "from megatron_dasd.commands.app import main; main({arguments!r})"
COMMANDS = ("run", "stage train", "stage", "convert export", "submit", "settings", "doctor")
"""The cheapest and the dearest; tests/test_imports.py holds what all of them load."""


def rows() -> Iterator[Row]:
    """Figures of the command line."""
    peer = [cpu_seconds(PEER) for _ in range(9)]
    for command in COMMANDS:
        program = HELP.format(arguments=[*command.split(), "--help"])
        yield at_most(
            2.0,
            name=f"CPU time of dasd {command} --help",
            unit="s",
            own=[cpu_seconds(program) for _ in range(9)],
            peer=peer,
            peer_name=f"python -c '{PEER}'",
        )


def cpu_seconds(program: str) -> float:
    """CPU time of a fresh interpreter that runs a program."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
