"""Kills ranks of a program that runs in another thread."""

import random
from contextlib import suppress
from threading import Event

import psutil


def kill_a_rank(moment: float, chance: random.Random, over: Event) -> None:
    """Kill one of the ranks so many seconds after they have started, unless all is over by then."""
    while not running_ranks():
        if over.wait(0.01):
            return
    over.wait(moment)
    ranks = running_ranks()
    if ranks:
        with suppress(psutil.NoSuchProcess):
            chance.choice(ranks).kill()


def running_ranks() -> list[psutil.Process]:
    """Those that the fork server has started, which is a child of this process."""
    return [rank for server in psutil.Process().children() for rank in server.children()]
