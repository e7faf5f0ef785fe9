"""How much of the logits the chunked losses hold at a time (pure; planning counts with it too)."""

SLICE_ELEMENTS = 2**25
"""Logits of a slice, tokens x columns of the vocabulary: 128 MiB of float32."""
_FLOAT32_BYTES = 4


def slice_length(num_divided: int, num_whole: int) -> int:
    """Length of a slice along the dimension that is divided; at least 1.

    Args:
        num_divided: length of the dimension that is divided into slices (tokens or columns).
        num_whole: length of the other one, which every slice has whole.
    """
    return max(1, min(num_divided, SLICE_ELEMENTS // max(1, num_whole)))


def slice_bytes(num_logits: float) -> float:
    """Bytes of float32 logits that exist at a time, of ``num_logits`` in all."""
    return _FLOAT32_BYTES * min(SLICE_ELEMENTS, num_logits)
