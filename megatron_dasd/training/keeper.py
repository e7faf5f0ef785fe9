"""Keeps the checkpoints of a run: room for the next one, a seal on each, and not too many."""

import os
import shutil
from pathlib import Path
from threading import Thread

from megatron_dasd.checkpoint import tracker
from megatron_dasd.checkpoint.seal import is_sealed, write_seal
from megatron_dasd.errors import UserError
from megatron_dasd.training.hooks import Hooks


class Keeper(Hooks):
    """Works on rank 0 alone; sealing reads what was written, in a thread beside the training."""

    def __init__(self, saves: Path, num_kept: int | None, num_bytes: int) -> None:
        """Keep the checkpoints in a folder.

        Args:
            saves: Megatron's ``--save``.
            num_kept: so many, the newest; an older one goes when they are whole and sealed.  None:
                all of them.
            num_bytes: about what the first checkpoint takes; later ones take what it took.
        """
        self._saves, self._num_kept, self._num_bytes = saves, num_kept, num_bytes
        saves.mkdir(parents=True, exist_ok=True)
        self._works = int(os.environ["RANK"]) == 0
        self._thread: Thread | None = None

    def before_checkpoint(self, iteration: int) -> None:
        """Make sure that the disk has room for another one like the newest.

        Raises:
            UserError: it does not; nothing has been written.
        """
        if not self._works:
            return
        self._wait()
        needed = max(map(_size, tracker.whole(self._saves)), default=self._num_bytes)
        free = shutil.disk_usage(self._saves).free
        if free < needed:
            raise UserError(
                f"{self._saves}: the checkpoint of iteration {iteration} needs "
                f"{needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free; make room, the same "
                "command goes on from the last checkpoint"
            )
        tracker.make_way(self._saves, iteration)

    def on_checkpoint(self, iteration: int) -> None:
        """Seal what is whole by now, and remove what is more than is kept."""
        if self._works:
            self._wait()
            self._thread = Thread(target=self._seal_and_prune)
            self._thread.start()

    def on_stage_end(self) -> None:
        """Seal what has become whole since."""
        if self._works:
            self._wait()
            self._seal_and_prune()

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _seal_and_prune(self) -> None:
        # Megatron's tracker names a checkpoint when all of it is written
        last = tracker.read(self._saves)
        whole = [p for p in tracker.whole(self._saves) if tracker.iteration_of(p) <= last]
        for folder in whole:
            if not is_sealed(folder):
                write_seal(folder)
        if self._num_kept is not None:
            for folder in whole[: -self._num_kept]:
                shutil.rmtree(folder)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
