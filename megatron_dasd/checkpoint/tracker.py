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
from megatron_dasd.checkpoint.seal import damage, is_sealed, unseal
from megatron_dasd.printing import say

_WRITTEN_LAST = "metadata.json"
_DAMAGED, _GIVEN_UP = "damaged", "given_up"
"""How the names of folders begin that Megatron no longer looks at."""


def checkpoint_folder(saves: Path, iteration: int) -> Path:
    """Where Megatron puts the checkpoint of an iteration."""
    return saves / iteration_name(iteration)


def iteration_of(folder: Path) -> int:
    """The iteration whose checkpoint lies in a folder."""
    return int(folder.name.removeprefix("iter_"))


def _folders(saves: Path) -> list[Path]:
    """Folders under a name that Megatron gives its checkpoints."""
    return [path for path in saves.glob("iter_*") if path.name[len("iter_") :].isdecimal()]


def read(saves: Path) -> int:
    """The iteration that the tracker names; 0 when it names none."""
    try:
        return int((saves / TRACKER).read_text())
    except (FileNotFoundError, ValueError):
        return 0


def whole(saves: Path) -> list[Path]:
    """Folders of the checkpoints that were written to their end, the oldest first."""
    return sorted(filter(_is_whole, _folders(saves)), key=iteration_of)


def _is_whole(folder: Path) -> bool:
    try:
        json.loads((folder / _WRITTEN_LAST).read_text())
    except (FileNotFoundError, ValueError, RecursionError):  # a kill can leave it empty
        return False
    return True


def make_way(saves: Path, iteration: int) -> None:
    """Make room for a checkpoint: unseal one of the same iteration, set later ones aside.

    A checkpoint that is written again is not whole, and has no seal, until that is done.  Later
    ones are of a run that was given up when this one went back behind them; they are set aside.
    """
    folder = checkpoint_folder(saves, iteration)
    unseal(folder)
    (folder / _WRITTEN_LAST).unlink(missing_ok=True)
    for later in _folders(saves):
        if iteration_of(later) > iteration:
            _set_aside(later, _GIVEN_UP)


def _set_aside(folder: Path, why: str) -> None:
    aside = folder.with_name(f"{why}_{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)


def _lineage(saves: Path, kept: list[Path]) -> list[Path]:
    """The checkpoints of the run that the tracker names, the oldest first.

    A later one has no seal when a kill came between its last file and the tracker.  One with a seal
    was named by the tracker once, and left behind when a run went back.
    """
    named = read(saves)
    if checkpoint_folder(saves, named) not in kept:
        return kept
    return [folder for folder in kept if iteration_of(folder) <= named or not is_sealed(folder)]


def repair(saves: Path) -> int:
    """Remove half-written checkpoints and make the tracker name the newest whole one of its run.


    One that a run went back behind is set aside, and so is one whose files have changed since it
    was sealed, which is reported: under names that Megatron does not look for.

    Returns:
        The newest whole checkpoint's iteration; 0 when there is none.
    """
    kept = whole(saves)
    for folder in set(_folders(saves)) - set(kept):
        shutil.rmtree(folder)
    whole_ones, kept = kept, _lineage(saves, kept)
    for folder in set(whole_ones) - set(kept):
        _set_aside(folder, _GIVEN_UP)
        say(f"    {folder.name} set aside: the tracker was set back behind it")
    while kept and (found := damage(kept[-1])):
        folder = kept.pop()
        _set_aside(folder, _DAMAGED)
        before = f"the checkpoint of iteration {iteration_of(kept[-1])}" if kept else "the start"
        say(f"    damaged checkpoint set aside ({found}); going on from {before}")
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
