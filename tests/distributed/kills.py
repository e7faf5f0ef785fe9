"""Programs whose ranks are killed, again and again, until they have been killed often enough."""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread

import psutil

from megatron_dasd.errors import UserError


class Killer(Thread):
    """Kills a rank so many seconds after they have started, unless all is over by then."""

    def __init__(self, seconds: float, chance: random.Random) -> None:
        super().__init__()
        self._seconds, self._chance, self._over = seconds, chance, Event()
        self.has_killed = False

    def run(self) -> None:
        while not running_ranks():
            if self._over.wait(0.01):
                return
        self._over.wait(self._seconds)
        ranks = running_ranks()
        if ranks:
            with suppress(psutil.NoSuchProcess):
                self._chance.choice(ranks).kill()
                self.has_killed = True

    def end(self) -> None:
        self._over.set()
        self.join()


def running_ranks() -> list[psutil.Process]:
    """Those that the fork server has started, which is a child of this process."""
    return [rank for server in psutil.Process().children() for rank in server.children()]


def run_with_kills[Result](
    run: Callable[[str], Result], expected: Result, num_kills: int, seconds: float, seed: int
) -> None:
    """Run until so many runs were killed; each that comes to its end must end as expected.

    Args:
        run: called with a name: goes on where the last call with it was killed.
        seconds: that an undisturbed run takes.
    """
    chance, kills, rounds = random.Random(seed), 0, 0
    until = time.monotonic() + 60 * num_kills
    while kills < num_kills:
        assert time.monotonic() < until
        killer = Killer(chance.uniform(0, 0.9) * seconds, chance)
        killer.start()
        try:
            assert run(f"round {rounds}") == expected
            rounds += 1  # it finished first: once more
        except UserError:
            killer.end()
            if not killer.has_killed:
                raise
            kills += 1
        finally:
            killer.end()
    assert run(f"round {rounds}") == expected
