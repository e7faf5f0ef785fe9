"""The command that trains on Megatron's own flags, under ``torchrun`` or ``srun``."""

import os
import sys
from collections.abc import Sequence

from megatron_dasd.device.launch import end_on_signals, run_guarded
from megatron_dasd.training.arguments import argument_parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on flags; an error ends the process with its status.

    Args:
        arguments: None: those of this process.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    end_on_signals()
    run_guarded(lambda: _train(given))


def _train(arguments: list[str]) -> None:
    # Megatron requires it under tensor parallelism: kernels start in the order of their launches.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    argument_parser().parse_known_args(arguments)  # --help and mistyped flags are answered at once
    from megatron_dasd.training.command_line import job_from_argv
    from megatron_dasd.training.program import main_by_hand

    main_by_hand(job_from_argv(arguments))
