"""The order of the packs in an epoch, one place at a time.

A stored permutation of all packs would take memory that grows with the data set, on every rank.  A
Feistel network on the numbers below a power of four is a permutation that can be
evaluated at a single place; a result beyond the packs is permuted again until it is among them
(Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002: cycle walking).
"""

import hashlib

from megatron_dasd.seeds import derive_seed

_ROUNDS = 8


def pack_at(position: int, num_packs: int, seed: int, epoch: int) -> int:
    """The pack at a position of an epoch's order; deterministic, and over all positions a
    permutation.

    Raises:
        IndexError: no such position.
    """
    if not 0 <= position < num_packs:
        raise IndexError(f"position {position} of {num_packs}")
    key = derive_seed(seed, "order of packs", epoch).to_bytes(8)
    half_bits = max(1, ((num_packs - 1).bit_length() + 1) // 2)
    place = _permuted(position, half_bits, key)
    while place >= num_packs:
        place = _permuted(place, half_bits, key)
    return place


def _permuted(number: int, half_bits: int, key: bytes) -> int:
    """A permutation of the numbers below ``4**half_bits``."""
    mask = (1 << half_bits) - 1
    left, right = number >> half_bits, number & mask
    for step in range(_ROUNDS):
        digest = hashlib.blake2b(right.to_bytes(8) + bytes([step]), digest_size=8, key=key)
        left, right = right, left ^ (int.from_bytes(digest.digest()) & mask)
    return left << half_bits | right
