"""How much of the logits the chunked losses hold at a time (pure; planning counts with it too)."""

TILE = 128
"""Slices are multiples of it where they are longer: the tile of a matrix product."""
CPU_BYTES = 384 * 2**20
"""Of a slice's float32 logits, without a GPU."""
_GPU_SHARE = 64
_FLOAT32_BYTES = 4


def default_bytes(gpu_bytes: float | None) -> int:
    """Bytes of float32 logits that exist at a time, where no setting says.

    The largest power of two in a 64th of the GPU's memory, so that GPUs of one kind agree, which
    the ranks of a tensor-parallel group must.

    Args:
        gpu_bytes: memory of the GPU; None: there is none.
    """
    if gpu_bytes is None:
        return CPU_BYTES
    return 1 << max(0, int(gpu_bytes / _GPU_SHARE).bit_length() - 1)


def slice_length(num_divided: int, num_whole: int, most_bytes: int) -> int:
    """Length of a slice along the dimension that is divided; at least 1.

    Args:
        num_divided: length of the dimension that is divided into slices (tokens or columns).
        num_whole: length of the other one, which every slice has whole.
        most_bytes: of a slice's logits in float32.
    """
    length = most_bytes // _FLOAT32_BYTES // max(1, num_whole)
    if length > TILE:
        length -= length % TILE
    return max(1, min(num_divided, length))


def slice_bytes(num_logits: float, most_bytes: int) -> float:
    """Bytes of float32 logits that exist at a time, of ``num_logits`` in all."""
    return min(most_bytes, _FLOAT32_BYTES * num_logits)
