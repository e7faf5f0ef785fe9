"""Whether rows of two sets of packed data can stand in one training."""

from pathlib import Path

from megatron_dasd.data.meta import DataMeta
from megatron_dasd.errors import UserError


def require_alike(first: DataMeta, second: DataMeta, path: Path) -> None:
    """Make sure that the rows of both are alike.

    Args:
        path: the second one's, for what is wrong with it.

    Raises:
        UserError: they are not.
    """
    for name in ("seq_length", "pack_align", "vocab_size"):
        mine, other = getattr(first, name), getattr(second, name)
        if mine != other:
            raise UserError(
                f"{path}: {name} is {other}, that of the data it is blended with {mine}; "
                "preprocess both alike"
            )
