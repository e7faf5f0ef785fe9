"""Megatron's checkpoint folder after a kill: the newest whole checkpoint, and nothing torn.

Megatron writes ``iter_N`` and then the tracker file that names N.  A kill can leave half an
``iter_N``, into which Megatron would not save again, or an empty tracker, on which Megatron ends
the process with status 0.
"""

import json
import shutil
from pathlib import Path

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.checkpoint.artifact import TRACKER, iteration_name
from megatron_dasd.checkpoint.seal import damage

_WRITTEN_LAST = "metadata.json"


def checkpoint_folder(saves: Path, iteration: int) -> Path:
    """Where Megatron puts the checkpoint of an iteration."""
    return saves / iteration_name(iteration)


def iteration_of(folder: Path) -> int:
    """The iteration whose checkpoint lies in a folder."""
    return int(folder.name.removeprefix("iter_"))


def read(saves: Path) -> int:
    """The iteration that the tracker names; 0 when it names none."""
    try:
        return int((saves / TRACKER).read_text())
    except (FileNotFoundError, ValueError):
        return 0


def whole(saves: Path) -> list[Path]:
    """Folders of the checkpoints that were written to their end, the oldest first."""
    return sorted(filter(_is_whole, saves.glob("iter_*")), key=iteration_of)


def _is_whole(folder: Path) -> bool:
    try:
        json.loads((folder / _WRITTEN_LAST).read_text())
    except (FileNotFoundError, ValueError):  # a kill can leave it empty
        return False
    return True


def repair(saves: Path) -> int:
    """Remove half-written checkpoints and make the tracker name the newest whole one.

    One whose files have changed since it was sealed is reported and set aside, under a name that
    Megatron does not look for.

    Returns:
        The newest whole checkpoint's iteration; 0 when there is none.
    """
    kept = whole(saves)
    for folder in set(saves.glob("iter_*")) - set(kept):
        shutil.rmtree(folder)
    while kept and (found := damage(kept[-1])):
        folder = kept.pop()
        aside = folder.with_name(f"damaged_{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        before = f"the checkpoint of iteration {iteration_of(kept[-1])}" if kept else "the start"
        print(f"    damaged checkpoint set aside ({found}); going on from {before}", flush=True)
    newest, tracker = iteration_of(kept[-1]) if kept else 0, saves / TRACKER
    if newest:
        write_atomic(tracker, str(newest).encode())
    else:
        tracker.unlink(missing_ok=True)
    return newest


def keep_only(saves: Path, iteration: int) -> None:
    """Remove every checkpoint but one, damaged ones too."""
    for folder in saves.glob("*iter_*"):
        if folder != checkpoint_folder(saves, iteration):
            shutil.rmtree(folder)
