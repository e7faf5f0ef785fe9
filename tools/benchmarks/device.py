"""Start of ranks."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Row, at_most, seconds
from megatron_dasd.device.launch import launch

IMPORTS = "import megatron_dasd.device.preload"


def rows() -> Iterator[Row]:
    """Figures of the device room."""
    yield at_most(
        0.25,
        name="start of a rank that has imported Megatron",
        unit="s",
        own=seconds(start_rank),
        peer=seconds(lambda: subprocess.run([sys.executable, "-c", IMPORTS], check=True)),
        peer_name="a fresh interpreter with the same imports",
    )


def start_rank() -> None:
    """Launch one rank that only says what machine it is on."""
    with tempfile.TemporaryDirectory() as folder:
        launch("megatron_dasd.device.environment", {}, 1, Path(folder))
