"""The walls that a test can ask for, or the reason why it is skipped."""

from functools import cache

import pytest

from megatron_dasd.containment import walls
from megatron_dasd.containment.probe import gaps
from megatron_dasd.containment.walls import Walls

WALLS = ["bubblewrap", "seccomp"]


@cache
def _try(name: str) -> Walls | str:
    found = {"bubblewrap": walls.bubblewrap, "seccomp": walls.seccomp}[name]()
    if found is None:
        return f"{name} is not installed: {walls.INSTALL}"
    missing = gaps(found)
    return f"{name} does not hold here: {', '.join(missing)}" if missing else found


def walls_here(name: str) -> Walls:
    """Walls of that name; skips the test where they do not hold."""
    found = _try(name)
    if isinstance(found, str):
        pytest.skip(found)
    return found
