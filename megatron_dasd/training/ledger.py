"""Which row of which round of rollouts enters a training at which iteration.

It is written down, and on the disk, before the first of a round's rows is used, so that a training
that goes on from a checkpoint meets the same rows in the same steps again.  A line is either ::

    {"round": 3, "weights": 40, "iterations": [51, 51, 52, null]}    where its rows 0, 1, ... enter
    {"reached": 56}                                                  steps up to this may have run

Rows are never planned into steps that may have run, in this process or in one that was killed.
"""

import json
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from megatron_dasd.errors import UserError

Line = dict[str, Any]
_STRIDE = 8
"""Iterations between two lines of how far training has come: each is a wait for the disk."""


class Place(NamedTuple):
    """A row of a round."""

    round: int
    row: int


def plan_rows(
    num_rows: int,
    weights: int,
    max_age: int,
    first_iteration: int,
    last_iteration: int,
    room: Callable[[int], int],
) -> list[int | None]:
    """The iteration at which each row of a round enters, as soon as there is room; None: never.

    Args:
        weights: iteration of the weights that the rows were made with.
        max_age: iterations between the weights of a row and those that are trained with it.
        first_iteration: the first that is still open.
        last_iteration: of the training.
        room: rows that an iteration still takes.
    """
    last = min(last_iteration, weights + max_age + 1)
    places = (i for i in range(first_iteration, last + 1) for _ in range(room(i)))
    return [next(places, None) for _ in range(num_rows)]


class Schedule:
    """The rounds that have come, as every rank knows them."""

    def __init__(self) -> None:
        self._rows: dict[int, list[Place]] = {}
        self._weights: list[int] = []
        self._starts = [0]
        self._iterations: list[int] = []
        self._sums = [0]
        self.reached = 0
        """Steps up to this iteration may have run before."""

    @property
    def num_rounds(self) -> int:
        """Rounds that have come."""
        return len(self._weights)

    def take(self, lines: Iterable[Line]) -> None:
        """Take lines of the ledger."""
        for line in lines:
            if "reached" in line:
                self.reached = line["reached"]
                continue
            for row, iteration in enumerate(line["iterations"]):
                if iteration is not None:
                    self._rows.setdefault(iteration, []).append(Place(self.num_rounds, row))
            self._weights.append(line["weights"])
            self._starts.append(self._starts[-1] + len(line["iterations"]))
        self._iterations = sorted(self._rows)
        self._sums = [0, *accumulate(len(self._rows[i]) for i in self._iterations)]

    def rows(self, iteration: int) -> Sequence[Place]:
        """The rows that enter at an iteration."""
        return self._rows.get(iteration, ())

    def num_up_to(self, iteration: int) -> int:
        """Rows that enter up to an iteration, that one included."""
        return self._sums[bisect_right(self._iterations, iteration)]

    def number(self, place: Place) -> int:
        """A row's number among those of all rounds."""
        return self._starts[place.round] + place.row

    def place(self, number: int) -> Place:
        """The row of that number."""
        found = bisect_right(self._starts, number) - 1
        return Place(found, number - self._starts[found])

    def age(self, place: Place, iteration: int) -> int:
        """Iterations between a row's weights and those that are trained with it."""
        return iteration - 1 - self._weights[place.round]

    def figures(self) -> dict[str, Any]:
        """What has entered in all, for the stage's manifest."""
        ages = Counter(
            self.age(place, iteration) for iteration, rows in self._rows.items() for place in rows
        )
        entered = ages.total()
        mean = sum(age * count for age, count in ages.items()) / entered if entered else None
        return {
            "rounds": self.num_rounds,
            "rows": entered,
            "rows_left_out": self._starts[-1] - entered,
            "mean_age": mean,
            "max_age": max(ages, default=None),
        }


class Ledger:
    """The file, which rank 0 alone writes."""

    def __init__(self, path: Path) -> None:
        """Open it, without a line at its end that a kill has cut off.

        Raises:
            UserError: another line is damaged.
        """
        self.lines, size = _whole_lines(path)
        self._file = path.open("ab")
        self._file.truncate(size)
        self._schedule = Schedule()
        self._schedule.take(self.lines)

    def reach(self, iteration: int) -> list[Line]:
        """Say that steps up to an iteration may run; the lines that this adds."""
        if iteration <= self._schedule.reached:
            return []
        return self._add({"reached": iteration + _STRIDE - 1})

    def enter(
        self,
        num_rows: int,
        weights: int,
        max_age: int,
        first_iteration: int,
        last_iteration: int,
        most: Callable[[int], int],
    ) -> list[Line]:
        """Plan the next round's rows; arguments as in :func:`plan_rows`, the lines that this adds.

        Args:
            most: rows that an iteration takes.
        """
        schedule = self._schedule

        def room(iteration: int) -> int:
            return most(iteration) - len(schedule.rows(iteration))

        iterations = plan_rows(num_rows, weights, max_age, first_iteration, last_iteration, room)
        line = {"round": schedule.num_rounds, "weights": weights, "iterations": iterations}
        return self._add(line)

    def _add(self, line: Line) -> list[Line]:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._schedule.take([line])
        return [line]


def read_ledger(path: Path) -> Schedule:
    """What a training's ledger says.

    Raises:
        UserError: it is damaged.
    """
    schedule = Schedule()
    schedule.take(_whole_lines(path)[0])
    return schedule


def _whole_lines(path: Path) -> tuple[list[Line], int]:
    """The lines, and how many bytes they take; what follows the last end of a line is none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    size = data.rfind(b"\n") + 1
    lines: list[Line] = []
    for number, line in enumerate(data[:size].splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            raise UserError(f"{path}: line {number} is damaged; bring the file back") from None
    return lines, size
