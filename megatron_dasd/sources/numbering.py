"""What rows of many files have to do with each other, from a few numbers of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from megatron_dasd.arrays import Bools, Ints
from megatron_dasd.records import Split

Hashes = npt.NDArray[np.void]
"""[rows] 16 bytes each."""


@dataclass(frozen=True)
class ScannedRows:
    """Rows in the order of the files; 45 bytes each."""

    ids: Hashes
    """Of the prompts' ids; zeros for a malformed row."""
    questions: Hashes
    """Of what is asked."""
    num_answers: npt.NDArray[np.int32]
    """0: the row is malformed."""
    heldout: Bools
    """Whether the row's file is held out."""

    @classmethod
    def of(
        cls,
        ids: Sequence[bytes],
        questions: Sequence[bytes],
        num_answers: Sequence[int],
        heldout: Sequence[bool],
    ) -> Self:
        """From a value for each row."""
        return cls(
            np.array(ids, dtype="V16"),
            np.array(questions, dtype="V16"),
            np.array(num_answers, dtype=np.int32),
            np.array(heldout, dtype=np.bool_),
        )

    @classmethod
    def joined(cls, scans: Sequence[Self]) -> Self:
        """The rows of several, one after the other."""
        names = ("ids", "questions", "num_answers", "heldout")
        columns = [np.concatenate([getattr(scan, name) for scan in scans]) for name in names]
        return cls(*columns)


@dataclass(frozen=True)
class Numbered:
    """What follows for each row from those before it."""

    candidates: Ints
    """[rows] number of the row's first candidate among those of its prompt."""
    num_records: Ints
    """[rows] its answers; 1 for a malformed row, which is one record that is set aside."""
    other_split: Bools
    """[rows] whether the question is in a file of the other split before."""
    heldout: Bools
    """[rows] as it was given."""
    first_of_question: Ints
    """[rows] the first row with the same question."""
    conflict: tuple[int, int] | None
    """The first row whose id has been another question's, and that question's row; None: none."""

    def split_before(self, row: int) -> Split:
        """The split of the first row with the same question."""
        return "heldout" if self.heldout[self.first_of_question[row]] else "train"


def number_rows(rows: ScannedRows) -> Numbered:
    """Count candidates by prompt, and find questions in both splits and ids of two questions.

    A malformed row is passed over.  One whose question is in the other split counts as malformed.
    """
    whole = rows.num_answers > 0
    first_of_id = first_alike(rows.ids, whole)
    first_of_question = first_alike(rows.questions, whole)
    two = np.flatnonzero(whole & (rows.questions != rows.questions[first_of_id]))
    conflict = (int(two[0]), int(first_of_id[two[0]])) if two.size else None
    other_split = whole & (rows.heldout != rows.heldout[first_of_question])
    counted = np.where(whole & ~other_split, rows.num_answers, 0).astype(np.int64)
    return Numbered(
        candidates=_sums_before(counted, first_of_id),
        num_records=np.maximum(counted, 1),
        other_split=other_split,
        heldout=rows.heldout,
        first_of_question=first_of_question,
        conflict=conflict,
    )


def first_alike(hashes: Hashes, counts: Bools) -> Ints:
    """[rows] the first row with the same hash; a row that does not count is alike itself alone."""
    places = np.flatnonzero(counts)
    halves = np.ascontiguousarray(hashes[places]).view(np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: equal ones stay in order
    ordered = halves[order]
    starts = np.ones(order.size, dtype=np.bool_)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.arange(hashes.size)
    first[places[order]] = places[order[np.flatnonzero(starts)[np.cumsum(starts) - 1]]]
    return first


def _sums_before(values: Ints, group: Ints) -> Ints:
    """[rows] the sum of the values of earlier rows of the same group."""
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(values[order])
    before = ends - values[order]
    starts = np.ones(order.size, dtype=np.bool_)
    starts[1:] = group[order][1:] != group[order][:-1]
    sums = np.empty_like(values)
    sums[order] = before - before[np.flatnonzero(starts)[np.cumsum(starts) - 1]]
    return sums
