"""What is typed for Megatron beside this program's own flags, checked before Megatron sees it."""

import argparse
from pathlib import Path

from megatron_dasd.config.megatron_flags import BY_PROGRAM, check_balancing, typed_names
from megatron_dasd.errors import UserError


def check_typed(argv: list[str]) -> None:
    """Reject flags that this program sets itself, and flags that would not have their effect.

    Args:
        argv: Megatron's part of the command line.

    Raises:
        UserError: naming the flag.
    """
    typed = typed_names(argv)
    for name, word in typed.items():
        if reason := BY_PROGRAM.get(name) or BY_PROGRAM.get(name.removeprefix("no-")):
            raise UserError(f"{word} is not to be given: {reason}")
        if "_" in word and word != f"--{name}":
            raise UserError(f"{word}: Megatron writes it --{name}")
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--load", type=Path)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--finetune", action="store_true")
    parser.add_argument("--moe-router-load-balancing-type", nargs="+", default=[])
    given, _ = parser.parse_known_args(argv)
    if (
        given.finetune
        and given.load
        and given.save
        and given.load.resolve() == given.save.resolve()
    ):
        raise UserError(
            "--finetune with the same --load and --save begins at step 0 at every start; name the "
            "weights to begin with in --pretrained-checkpoint"
        )
    try:
        check_balancing(given.moe_router_load_balancing_type)
    except ValueError as error:
        raise UserError(f"--{error}") from None
