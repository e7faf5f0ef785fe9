"""Every way of containing that works on this machine."""

from collections.abc import Iterator

import pytest

from megatron_dasd.containment.pool import Pool
from megatron_dasd.containment.probe import TASK
from megatron_dasd.containment.protocol import Limits
from tests.containment.walls import WALLS, walls_here

LIMITS = Limits(seconds=2.0)


@pytest.fixture(scope="module", params=WALLS)
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """A worker that executes Python code, behind each of the walls."""
    with Pool(TASK, walls_here(request.param), LIMITS, size=1) as pool:
        yield pool
