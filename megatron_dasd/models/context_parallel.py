"""Which positions of a packed row each context-parallel rank works on (pure).

Each document's slot is divided by itself, as Transformer Engine divides it for its own attention
(``thd_get_partitioned_indices``): into 2 C equal chunks for C ranks, of which rank r has chunks r
and 2 C - 1 - r.  Under a causal mask early chunks see little and late ones much, so every rank has
the same work::

    C = 2, slots of 8 and 4     0 1 2 3 4 5 6 7   8 9 10 11
    rank 0                      0 1         6 7   8      11
    rank 1                          2 3 4 5         9 10
"""

from typing import Any

import numpy as np
import numpy.typing as npt


def slot_multiple(size: int) -> int:
    """What every slot's length must be a multiple of, for ``size`` context-parallel ranks."""
    return 2 * size if size > 1 else 1


def chunks(slot: int, rank: int, size: int) -> list[tuple[int, int]]:
    """Beginnings and ends, inside a slot, of what a context-parallel rank has of it."""
    if size == 1:
        return [(0, slot)]
    chunk = slot // slot_multiple(size)
    return [(n * chunk, (n + 1) * chunk) for n in (rank, 2 * size - 1 - rank)]


def own_positions(cu_seqlens_padded: npt.NDArray[Any], rank: int, size: int) -> npt.NDArray[Any]:
    """Positions of one rank in the row, in the order in which it holds them.

    Args:
        cu_seqlens_padded: ``[slots + 1]``, where the slots begin and the row ends.
        rank: among the ``size`` context-parallel ranks.

    Returns:
        int64 ``[seq / size]``.

    Raises:
        ValueError: a slot does not divide among the ranks.
    """
    lengths = np.diff(cu_seqlens_padded)
    if (lengths % slot_multiple(size)).any():
        raise ValueError(
            f"slots of {lengths.tolist()} positions do not divide among {size} "
            f"context-parallel ranks: no multiples of {slot_multiple(size)}"
        )
    positions = np.arange(cu_seqlens_padded[-1])
    starts, slots = (np.repeat(x, lengths) for x in (cu_seqlens_padded[:-1], lengths))
    chunks = (positions - starts) * (2 * size) // slots
    own: npt.NDArray[Any] = positions[(chunks == rank) | (chunks == 2 * size - 1 - rank)]
    return own


def row_order(cu_seqlens_padded: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Where each position of the row lies among the ranks' shares, laid one behind the other.

    Returns:
        int64 ``[seq]``: ``shares[row_order(...)]`` is the row.
    """
    shares = [own_positions(cu_seqlens_padded, rank, size) for rank in range(size)]
    return np.concatenate(shares).argsort()
