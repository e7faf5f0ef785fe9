"""Whether packed data fits a layout, asked at the start of training."""

import math
from argparse import Namespace
from pathlib import Path

from megatron_dasd.data.meta import read_meta
from megatron_dasd.errors import UserError
from megatron_dasd.models.context_parallel import slot_multiple
from megatron_dasd.precision.requirements import ALIGNMENT


def require_slots(data: Path, args: Namespace) -> None:
    """Stop where the slots of some packed data cannot be divided as Megatron's arguments ask.

    Raises:
        UserError: what the slots would have to be multiples of, and why.
    """
    align = read_meta(data).pack_align
    wanted = slot_multiples(args)
    multiple = math.lcm(*wanted.values())
    if align % multiple:
        reasons = ", ".join(f"{number} for {why}" for why, number in wanted.items())
        raise UserError(
            f"{data}: documents are padded to multiples of {align} (pack_align), this layout "
            f"wants {multiple} ({reasons}); preprocess with pack_align {math.lcm(align, multiple)} "
            "or choose another layout"
        )


def slot_multiples(args: Namespace) -> dict[str, int]:
    """What every slot's length must be a multiple of, by the reason."""
    wanted = {}
    if args.context_parallel_size > 1:
        wanted["2 x context parallel"] = slot_multiple(args.context_parallel_size)
    if args.sequence_parallel:
        wanted["sequence parallel"] = args.tensor_model_parallel_size
    if args.fp8:
        wanted["FP8"] = ALIGNMENT
    return wanted
