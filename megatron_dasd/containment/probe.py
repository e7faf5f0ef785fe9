"""Which walls hold here: workers attempt what they must not be able to do.

Walls that exist but do not hold are not used.
"""

import os
from collections.abc import Callable
from functools import cache

from megatron_dasd.containment.pool import Pool, WorkerError
from megatron_dasd.containment.protocol import Failure, Limits
from megatron_dasd.containment.walls import Walls, bubblewrap, limits_only, seccomp

TASK = "megatron_dasd.containment.probe:prepare"
_LIMITS = Limits(prepare_seconds=30.0)
_ATTEMPTS = {
    "start processes": "import os\nos.fork() or os._exit(0)",
    "write files": "open('/var/tmp/megatron_dasd.probe', 'w')",
    "read other processes' environment": "open('/proc/{host}/environ', 'rb').read()",
    "send signals": "import os\nos.kill({host}, 0)",
    "reach the network": (
        "import socket\nassert any(name != 'lo' for _, name in socket.if_nameindex())"
    ),
    "read its environment": "import os\nassert os.environ",
    "take 10 GB": "bytearray(10 << 30)",
}
"""Python code that fails when the walls hold, by what it does otherwise; {host} is the host's
process."""


@cache
def find_walls() -> Walls:
    """The strongest walls that hold on this machine; ``limits_only`` when none does."""
    for walls in (bubblewrap(), seccomp()):
        if walls is not None and not gaps(walls):
            return walls
    return limits_only()


def gaps(walls: Walls) -> list[str]:
    """What code behind these walls can still do; empty when they hold."""
    attempts = [code.format(host=os.getpid()) for code in _ATTEMPTS.values()]
    try:
        with Pool(TASK, walls, _LIMITS, size=1) as pool:
            works, *outcomes = pool.run(
                [("", code.encode()) for code in ("result = 42", *attempts)]
            )
    except WorkerError as error:
        return [str(error)]
    if works != b"42":
        return [f"not even harmless code: {works!r}"]
    tried = zip(_ATTEMPTS, outcomes, strict=True)
    return [what for what, outcome in tried if not isinstance(outcome, Failure)]


def prepare(key: str) -> Callable[[bytes], bytes]:
    """The task: execute Python code and give what it leaves in ``result``."""

    def execute(body: bytes) -> bytes:
        scope: dict[str, object] = {}
        exec(body.decode(), scope)
        return str(scope.get("result", "")).encode()

    return execute
