"""When a training run's checkpoints are given room, sealed and pruned: see checkpoint.retention."""

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from megatron_dasd.checkpoint import tracker
from megatron_dasd.checkpoint.retention import require_room, seal_and_prune
from megatron_dasd.training.hooks import Hooks

if TYPE_CHECKING:
    from torch.nn import Module


class Keeper(Hooks):
    """Works on rank 0 alone; sealing reads what was written, in a thread beside the training."""

    def __init__(self, saves: Path, num_kept: int | None, num_bytes: int) -> None:
        """Keep the checkpoints in a folder.

        Args:
            saves: Megatron's ``--save``.
            num_kept: newest checkpoints to keep; an older one is removed when they are whole and
                sealed.  None: all are kept.
            num_bytes: expected size of the first checkpoint.
        """
        self._saves, self._num_kept, self._num_bytes = saves, num_kept, num_bytes
        saves.mkdir(parents=True, exist_ok=True)
        self._works = int(os.environ["RANK"]) == 0
        self._thread: Thread | None = None
        self._being_written: int | None = None
        """Iteration of a checkpoint that the tracker does not name yet."""

    def before_checkpoint(self, iteration: int) -> None:
        """Make sure that the disk has room for another one like the newest.

        Raises:
            UserError: it has none; nothing has been written.
        """
        if self._works:
            self._wait()
            require_room(self._saves, iteration, self._num_bytes)
            tracker.make_way(self._saves, iteration)

    def on_checkpoint(self, iteration: int) -> None:
        """Seal the checkpoint when it is whole, and remove what is more than is kept."""
        if self._works:
            self._being_written = iteration
            self._seal_if_written()

    def on_step_end(self, iteration: int, model: "Sequence[Module]") -> None:
        """The same, for a checkpoint that was written beside the training."""
        if self._being_written is not None:
            self._seal_if_written()

    def _seal_if_written(self) -> None:
        # Megatron's tracker names a checkpoint when all of it is written
        if tracker.read(self._saves) == self._being_written:
            self._being_written = None
            self._wait()
            self._thread = Thread(target=seal_and_prune, args=(self._saves, self._num_kept))
            self._thread.start()

    def on_stage_end(self) -> None:
        """Seal what has become whole since."""
        if self._works:
            self._wait()
            seal_and_prune(self._saves, self._num_kept)

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
