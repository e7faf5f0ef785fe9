"""Checks that rows of two sets of packed data fit into one training."""

from pathlib import Path

from megatron_dasd.data.meta import DataMeta
from megatron_dasd.errors import UserError


def require_alike(first: DataMeta, second: DataMeta, path: Path) -> None:
    """Check that the rows of both have one length, alignment and vocabulary.

    Args:
        path: of the second set, for error messages.

    Raises:
        UserError: they differ.
    """
    for name in ("seq_length", "pack_align", "vocab_size"):
        mine, other = getattr(first, name), getattr(second, name)
        if mine != other:
            raise UserError(
                f"{path}: {name} is {other}, that of the data it is blended with {mine}; "
                "preprocess both alike"
            )
