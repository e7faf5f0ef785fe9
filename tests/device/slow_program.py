"""A program that is asked to stop while it is imported."""

import os
import sys
import time
from pathlib import Path

from megatron_dasd.device.payload import Payload

(Path(sys.argv[1]).parent / "pid").write_text(str(os.getpid()))
time.sleep(60)


class Nothing(Payload):
    """It is not reached."""


def main(_: Nothing) -> None:
    """Not reached either."""
