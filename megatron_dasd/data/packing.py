"""Packs documents into rows of equal length, by their lengths alone (METHOD: greedy packing)."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from megatron_dasd.arrays import Ints


@dataclass(frozen=True)
class Packs:
    """Which row holds which documents."""

    documents: Ints
    """[documents] numbers of all documents, those of a pack next to each other."""
    offsets: Ints
    """[packs + 1] pack i holds ``documents[offsets[i] : offsets[i + 1]]``."""

    def __len__(self) -> int:
        return self.offsets.size - 1

    def __iter__(self) -> Iterator[Ints]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Ints:
        return self.documents[self.offsets[index] : self.offsets[index + 1]]


def aligned(lengths: Ints, align: int) -> Ints:
    """Lengths [documents] rounded up to multiples of ``align``."""
    return -(-lengths // align) * align


def best_fit_decreasing(lengths: Ints, capacity: int) -> Packs:
    """Put every document, the longest first, into the fullest pack that still has room for it.

    Best fit decreasing opens at most 11/9 of the fewest possible packs, plus 4.  Time grows as
    documents x log(distinct free spaces).  Deterministic: documents of equal length keep their
    order.

    Args:
        lengths: [documents] tokens of each document, at least 1.
        capacity: tokens of a pack.

    Raises:
        ValueError: a document is empty or longer than a pack.
    """
    if lengths.size and not 0 < lengths.min() <= lengths.max() <= capacity:
        raise ValueError(f"lengths: must lie between 1 and the capacity of {capacity}")
    order = np.argsort(-lengths, kind="stable")
    packs_by_space: dict[int, list[int]] = {}
    spaces: list[int] = []  # the keys of packs_by_space, ascending
    pack_of = np.empty(lengths.size, dtype=np.int64)
    num_packs = 0
    for position, length in enumerate(lengths[order].tolist()):
        found = bisect_left(spaces, length)
        if found == len(spaces):
            pack, space = num_packs, capacity
            num_packs += 1
        else:
            space = spaces[found]
            pack = packs_by_space[space].pop()
            if not packs_by_space[space]:
                del packs_by_space[space], spaces[found]
        pack_of[position] = pack
        left = space - length
        if left in packs_by_space:
            packs_by_space[left].append(pack)
        elif left:
            packs_by_space[left] = [pack]
            insort(spaces, left)
    documents = order[np.argsort(pack_of, kind="stable")]
    sizes = np.bincount(pack_of, minlength=num_packs)
    return Packs(documents, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
