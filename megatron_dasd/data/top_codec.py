"""The likeliest tokens of one document as compressed bytes, and back.

Of a document's ids and log-probs ``[tokens, k]`` are kept: the ids plus 1 (0: unknown), and the
log-probs in steps of 2^-16 nats, each as its distance to the one before it.  Both are laid out rank
by rank and byte by byte, where they are most alike, and compressed with zstd.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

STEPS = 1 << 16
"""Steps of a nat: a log-prob is off by at most 7.7e-6, far less than rounding in bfloat16."""
_ENTRY = np.dtype("<u4")
_CODEC = "zstd"
_LEVEL = 1


def encode_top(ids: npt.NDArray[np.integer], logprobs: npt.NDArray[np.floating]) -> bytes:
    """Compress.

    Args:
        ids: ``[tokens, k]``, -1 where none is known.
        logprobs: ``[tokens, k]``, -inf where none is known.
    """
    known = ids.T >= 0
    steps = np.zeros(known.shape, np.int64)
    np.rint(logprobs.T * -float(STEPS), out=steps, where=known, casting="unsafe")
    values = np.empty((2, *known.shape), _ENTRY)
    values[0] = ids.T + 1
    # unsigned numbers wrap around, also where an unknown one follows
    values[1] = np.diff(steps.clip(0, 2**32 - 1), axis=0, prepend=0).astype(_ENTRY)
    planes = np.moveaxis(values.view(np.uint8).reshape(*values.shape, 4), -1, 0)
    codec = pa.Codec(_CODEC, compression_level=_LEVEL)
    data: bytes = codec.compress(np.ascontiguousarray(planes), asbytes=True)
    return data


def decode_top(
    data: bytes | npt.NDArray[np.uint8], num_tokens: int, top_k: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """(ids ``[tokens, k]``, log-probs ``[tokens, k]``) from compressed bytes.

    Raises:
        ValueError: the bytes are not of so many tokens.
    """
    size = 2 * top_k * num_tokens * _ENTRY.itemsize
    try:
        raw = pa.Codec(_CODEC).decompress(data, decompressed_size=size)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"not of {num_tokens} tokens ({error})") from None
    if len(raw) != size:
        raise ValueError(f"of {len(raw)} bytes, {num_tokens} tokens have {size}")
    planes = np.frombuffer(raw, np.uint8).reshape(_ENTRY.itemsize, 2, top_k, num_tokens)
    values = np.ascontiguousarray(np.moveaxis(planes, 0, -1)).view(_ENTRY)[..., 0]
    ids = values[0].T.astype(np.int32) - 1
    steps = np.cumsum(values[1], axis=0, dtype=_ENTRY).T
    logprobs = np.where(ids >= 0, steps / -float(STEPS), -np.inf).astype(np.float32)
    return ids, logprobs
