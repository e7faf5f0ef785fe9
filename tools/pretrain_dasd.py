#!/usr/bin/env python3
"""Train under torchrun or srun on Megatron's own flags; the architecture's come from the model.

torchrun --nproc-per-node 8 tools/pretrain_dasd.py --dasd-hf-model DIR --dasd-data DIR ...
"""

import sys

from megatron_dasd.device.launch import run_guarded
from megatron_dasd.training.arguments import argument_parser


def main() -> None:
    """Train on the flags of this process."""
    argument_parser().parse_known_args()  # --help and mistyped flags are answered at once
    from megatron_dasd.training.command_line import job_from_argv
    from megatron_dasd.training.program import main_by_hand

    main_by_hand(job_from_argv(sys.argv[1:]))


if __name__ == "__main__":
    run_guarded(main)
