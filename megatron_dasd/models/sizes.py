"""Bytes of a weight in memory and in checkpoints, by training precision (pure)."""

_SLOWEST_DISK = 1e8
"""Bytes per second of a shared file system that is cold or busy."""
_LEAST_MINUTES = 10
ADAM_MOMENT_BYTES = 4 + 4
"""Both of Adam's moments of a weight, in float32."""


def element_bytes(bf16: bool) -> int:
    """Bytes of a weight or an activation in the model's own type."""
    return 2 if bf16 else 4


def optimizer_bytes(bf16: bool, moment_bytes: int = ADAM_MOMENT_BYTES) -> int:
    """Bytes of a weight's optimizer state: a float32 copy of what is not, and Adam's moments."""
    return (4 if bf16 else 0) + moment_bytes


def checkpoint_bytes(num_weights: int, bf16: bool) -> int:
    """Bytes of a training checkpoint: the weights with their optimizer state."""
    return num_weights * (element_bytes(bf16) + optimizer_bytes(bf16))


def timeout_minutes(num_bytes: int) -> int:
    """How long ranks wait for one another, so that a checkpoint can be read or written meanwhile.

    Args:
        num_bytes: of the checkpoint.
    """
    return _LEAST_MINUTES + int(num_bytes / _SLOWEST_DISK / 60)
