"""How a stage's checkpoints are written: interim ones beside the training, the last one whole."""

import os
from pathlib import Path

from megatron_dasd.checkpoint import interim, tracker
from megatron_dasd.config.base import Launch
from megatron_dasd.models.architecture import Flags
from megatron_dasd.training.hooks import Hooks

ASYNC_FLAGS: Flags = {
    "async-save": True,
    # Without it Megatron turns the flag above off.
    "use-persistent-ckpt-worker": True,
    # Megatron's own; its default needs a package of NVIDIA's.
    "async-strategy": "mcore",
}
"""What lets Megatron write checkpoints beside the training."""


class InterimSaves(Hooks):
    """Tells Megatron before each save how to make it.

    An interim checkpoint is copied to the host and written by another process while training goes
    on, the distributed optimizer's state as it lies on the ranks.  The last one, and one that a
    signal or a limit of the flags asks for, is written at once, and loads under any layout.
    """

    def __init__(self, saves: Path, launch: Launch) -> None:
        """Save as a stage does.

        Args:
            saves: Megatron's ``--save``.
            launch: the training's layout.
        """
        self._saves, self._launch = saves, launch
        self._works = int(os.environ["RANK"]) == 0
        self._interim = False

    def before_checkpoint(self, iteration: int) -> None:
        """Decide on the way of saving; a save that is still being written is waited for."""
        from megatron.training import get_args
        from megatron.training.async_utils import maybe_finalize_async_save

        maybe_finalize_async_save(blocking=True)
        args = get_args()
        self._interim = is_interim(
            iteration, args.train_iters, args.save_interval, args.exit_interval
        )
        self._interim = self._interim and not _was_signalled()
        args.async_save = self._interim
        args.dist_ckpt_optim_fully_reshardable = not self._interim

    def on_checkpoint(self, iteration: int) -> None:
        """Note the layout that an interim checkpoint is tied to, before it is complete."""
        from megatron.training import get_args

        if self._works and self._interim and self._launch.distributed_optimizer:
            interim.mark(tracker.checkpoint_folder(self._saves, iteration), self._launch)
        get_args().async_save = True  # or Megatron would not look whether one has been written


def is_interim(iteration: int, last: int, every: int, exit_every: int | None) -> bool:
    """Whether training goes on behind a save.

    Args:
        iteration: of the save.
        last: the training's last iteration.
        every: iterations between interim saves; at any other a limit of the flags has asked for it.
        exit_every: iterations after which a run ends; None: at the last one only.
    """
    exits = bool(exit_every) and iteration % (exit_every or 1) == 0
    return iteration < last and iteration % every == 0 and not exits


def _was_signalled() -> bool:
    """Whether any rank was asked to stop; every rank asks."""
    from megatron.training import get_signal_handler

    return any(get_signal_handler().signals_received())
