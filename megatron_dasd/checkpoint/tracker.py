"""Megatron's checkpoint folder after a kill: the newest whole checkpoint, and nothing torn.

Megatron writes ``iter_N`` and then the tracker file that names N.  A kill can leave half an
``iter_N``, into which Megatron would not save again, or an empty tracker, on which Megatron ends
the process with status 0.
"""

import shutil
from pathlib import Path

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.checkpoint.artifact import TRACKER, iteration_name

_WRITTEN_LAST = "metadata.json"


def checkpoint_folder(saves: Path, iteration: int) -> Path:
    """Where Megatron puts the checkpoint of an iteration."""
    return saves / iteration_name(iteration)


def repair(saves: Path) -> int:
    """Remove half-written checkpoints and let the tracker name the newest whole one.

    Returns:
        The newest whole checkpoint's iteration; 0 when there is none.
    """
    whole = [0]
    for folder in saves.glob("iter_*"):
        if (folder / _WRITTEN_LAST).is_file():
            whole.append(int(folder.name.removeprefix("iter_")))
        else:
            shutil.rmtree(folder)
    newest, tracker = max(whole), saves / TRACKER
    if newest:
        write_atomic(tracker, str(newest).encode())
    else:
        tracker.unlink(missing_ok=True)
    return newest


def keep_only(saves: Path, iteration: int) -> None:
    """Remove every checkpoint but one."""
    for folder in saves.glob("iter_*"):
        if folder != checkpoint_folder(saves, iteration):
            shutil.rmtree(folder)
