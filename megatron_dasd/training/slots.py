"""Whether packed data fits a layout, checked at the start of training.

Context parallelism divides every document's slot, sequence parallelism and FP8 the whole row (for
FP8 see ``precision.requirements``).
"""

from argparse import Namespace
from pathlib import Path

from megatron_dasd.data.meta import read_meta
from megatron_dasd.errors import UserError
from megatron_dasd.models.context_parallel import slot_multiple


def require_slots(data: Path, args: Namespace) -> None:
    """Stop where slots or rows of packed data cannot be divided as Megatron's arguments require.

    Raises:
        UserError: naming what they must be multiples of, and what to do.
    """
    meta = read_meta(data)
    multiple = slot_multiple(args.context_parallel_size)
    if meta.pack_align % multiple or meta.seq_length % multiple:
        raise UserError(
            f"{data}: documents are padded to multiples of {meta.pack_align} (pack_align) in rows "
            f"of {meta.seq_length}; {args.context_parallel_size} context-parallel ranks need "
            f"multiples of {multiple}: preprocess with such a pack_align, or choose another layout"
        )
    ranks = args.context_parallel_size * args.tensor_model_parallel_size
    if args.sequence_parallel and meta.seq_length % ranks:
        raise UserError(
            f"{data}: rows of {meta.seq_length} (seq_length) do not divide among {ranks} ranks "
            "(context x tensor parallel, with sequence parallelism): choose another layout, or "
            f"preprocess with a seq_length that is a multiple of {ranks}"
        )
