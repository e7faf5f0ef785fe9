"""Megatron's C++ helpers for its own datasets: built where they are not, left alone where they are.

Rank 0 of every Megatron program runs ``make`` in the folder of these helpers.  The wheel has them
built and brings no Makefile, so ``make`` fails there and ends the program.
"""

import importlib.util


def skip_build() -> None:
    """Let Megatron start without ``make`` where the built helpers can be imported."""
    if importlib.util.find_spec("megatron.core.datasets.helpers_cpp") is None:
        return
    from megatron.core.datasets import utils

    utils.compile_helpers = _nothing_to_build


def _nothing_to_build() -> None: ...
