"""Which row of which round of rollouts enters a training at which iteration.

The ledger is a file.  A round's line is on the disk before the first of its rows is used, so that a
training that resumes from a checkpoint meets the same rows in the same steps again.  A line is
either ::

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
from typing import NamedTuple, TypedDict, final

from megatron_dasd.errors import UserError
from megatron_dasd.json_values import checked_as

_STRIDE = 8
"""Iterations between two lines of how far training has come.  Each line is a wait for the disk, and
after a kill the rows that come next wait for at most as many iterations."""

MOST_ITERATIONS = 10**9
"""A larger number of an iteration, or of rows, is damage."""


@final
class RoundLine(TypedDict):
    """A round has come."""

    round: int
    weights: int
    """Iteration of the weights that its rows were made with."""
    iterations: list[int | None]
    """For each row the iteration at which it enters; None: never."""


@final
class ReachedLine(TypedDict):
    """Steps up to this iteration may have run."""

    reached: int


type Line = RoundLine | ReachedLine


class Figures(TypedDict):
    """What has entered a training in all, for the stage's manifest."""

    rounds: int
    rows: int
    rows_left_out: int
    mean_age: float | None
    """Iterations between a row's weights and those that it was trained with; None: no rows."""
    max_age: int | None


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
    """The iteration at which each row of a round enters: the first with room; None: never.

    Args:
        num_rows: rows of the round.
        weights: iteration of the weights that the rows were made with.
        max_age: iterations between the weights of a row and those that it is trained with, at
            most.
        first_iteration: the first that may still get rows.
        last_iteration: the training's last.
        room: how many more rows an iteration takes.
    """
    # step i is made with the weights of iteration i - 1, from which a row's age counts
    last = min(last_iteration, weights + max_age + 1)
    places = (i for i in range(first_iteration, last + 1) for _ in range(room(i)))
    return [next(places, None) for _ in range(num_rows)]


class Schedule:
    """The rounds that have come; every rank has the same one."""

    def __init__(self) -> None:
        self._rows: dict[int, list[Place]] = {}
        """Rows by the iteration at which they enter."""
        self._weights: list[int] = []
        """Iteration of the weights of each round."""
        self._starts = [0]
        """Number of each round's first row among the rows of all rounds."""
        # Both for num_up_to, which is called for every row that is read: rows that enter up to
        # the n-th of the iterations that have any.
        self._iterations: list[int] = []
        self._sums = [0]
        self.reached = 0
        """Steps up to this iteration may have run before."""

    @property
    def num_rounds(self) -> int:
        """Rounds that have come."""
        return len(self._weights)

    def take(self, lines: Iterable[Line]) -> None:
        """Add lines of the ledger, in their order."""
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
        """Iterations between a row's weights and those that it is trained with."""
        return iteration - 1 - self._weights[place.round]

    def figures(self) -> Figures:
        """What has entered in all."""
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
        """Open the file; a last line that a kill has cut off is removed.

        Raises:
            UserError: another line is damaged.
        """
        self.lines, size = _whole_lines(path)
        self._file = path.open("ab")
        # A torn line was never broadcast, so no rank has used its rows; the round comes again.
        self._file.truncate(size)
        self._schedule = Schedule()
        self._schedule.take(self.lines)

    def reach(self, iteration: int) -> list[Line]:
        """Note that steps up to an iteration may run; returns the lines that this adds."""
        if iteration <= self._schedule.reached:
            return []
        return self._add(ReachedLine(reached=iteration + _STRIDE - 1))

    def enter(
        self,
        num_rows: int,
        weights: int,
        max_age: int,
        first_iteration: int,
        last_iteration: int,
        most: Callable[[int], int],
    ) -> list[Line]:
        """Plan the next round's rows; returns the lines that this adds.

        Args:
            num_rows: this and those up to ``last_iteration`` as in :func:`plan_rows`.
            weights: see there.
            max_age: see there.
            first_iteration: see there.
            last_iteration: see there.
            most: rows of the worker that an iteration takes at most.
        """
        schedule = self._schedule

        def room(iteration: int) -> int:
            return most(iteration) - len(schedule.rows(iteration))

        iterations = plan_rows(num_rows, weights, max_age, first_iteration, last_iteration, room)
        return self._add(
            RoundLine(round=schedule.num_rounds, weights=weights, iterations=iterations)
        )

    def _add(self, line: Line) -> list[Line]:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        # On the disk before it is broadcast: if a power cut lost a line whose rows were used, the
        # resumed run would plan that round again and train on other rows.
        os.fsync(self._file.fileno())
        self._schedule.take([line])
        return [line]


def read_ledger(path: Path) -> Schedule:
    """The schedule that a training's ledger holds.

    Raises:
        UserError: the ledger is damaged.
    """
    schedule = Schedule()
    schedule.take(_whole_lines(path)[0])
    return schedule


def _whole_lines(path: Path) -> tuple[list[Line], int]:
    """The whole lines, and their size in bytes; text behind the last line break is left out."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    size = data.rfind(b"\n") + 1
    lines: list[Line] = []
    num_rounds = reached = 0
    for number, text in enumerate(data[:size].split(b"\n")[:-1], 1):
        try:
            line = _checked(text, num_rounds, reached)
        except ValueError as error:
            raise UserError(
                f"{path}: line {number} is damaged ({error}); restore it from a copy"
            ) from None
        if "reached" in line:
            reached = line["reached"]
        else:
            num_rounds += 1
        lines.append(line)
    return lines, size


def _checked(text: bytes, num_rounds: int, reached: int) -> Line:
    """A line, checked against those before it.

    Raises:
        ValueError: it is damaged, or out of order.
    """
    if b'"reached"' in text:
        step = checked_as(ReachedLine, text)
        if not reached <= step["reached"] <= MOST_ITERATIONS:
            raise ValueError(f"field reached: {step['reached']} comes after {reached}")
        return step
    line = checked_as(RoundLine, text)
    if line["round"] != num_rounds:
        raise ValueError(f"field round: expected {num_rounds}, got {line['round']}")
    if not 0 <= line["weights"] <= MOST_ITERATIONS:
        raise ValueError(f"field weights: {line['weights']} is out of range")
    for iteration in line["iterations"]:
        if iteration is not None and not 0 < iteration <= MOST_ITERATIONS:
            raise ValueError(f"field iterations: {iteration} is out of range")
    return line
