"""Which checkpoints of a running training stay: room for the next, a seal on each, the newest kept.

When this happens is ``training.keeper``'s to decide.
"""

import shutil
from pathlib import Path

from megatron_dasd.checkpoint import tracker
from megatron_dasd.checkpoint.seal import is_sealed, write_seal
from megatron_dasd.errors import UserError


def require_room(saves: Path, iteration: int, expected_bytes: int) -> None:
    """Make sure that the disk has room for another checkpoint.

    Args:
        saves: Megatron's ``--save``.
        iteration: whose checkpoint is about to be written.
        expected_bytes: size of the first checkpoint; later ones take what the largest one took.

    Raises:
        UserError: there is no room; nothing has been written.
    """
    needed = max(map(_size, tracker.whole(saves)), default=expected_bytes)
    free = shutil.disk_usage(saves).free
    if free < needed:
        raise UserError(
            f"{saves}: the checkpoint of iteration {iteration} needs "
            f"{needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free; make room, the same "
            "command goes on from the last checkpoint"
        )


def seal_and_prune(saves: Path, num_kept: int | None) -> None:
    """Seal the whole checkpoints, and remove those older than the newest ``num_kept``.

    Args:
        num_kept: None: all are kept.
    """
    # Megatron's tracker names a checkpoint when all of it is written
    last = tracker.read(saves)
    whole = [path for path in tracker.whole(saves) if tracker.iteration_of(path) <= last]
    for folder in whole:
        if not is_sealed(folder):
            write_seal(folder)
    if num_kept is not None:
        for folder in whole[:-num_kept]:
            shutil.rmtree(folder)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
