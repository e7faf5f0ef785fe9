"""The result that a stage is replacing, kept beside its folder until the new one is whole.

::

    runs/demo/train/            the new attempt
    runs/demo/.train.replaced/  the finished result of other settings or inputs

One rename moves the old result aside, and it is deleted after the new manifest is written.  A kill
at any moment therefore leaves one of the two whole.  A stage that gets its old settings back before
the new result is whole gets its old result back too.
"""

import fcntl
import os
import shutil
from pathlib import Path

from megatron_dasd.errors import UserError
from megatron_dasd.manifests import ATTEMPT, LOCK, MANIFEST, check_files, read_manifest


def lock(folder: Path) -> int:
    """Lock a stage's folder, which exists; closing the file descriptor returned unlocks it.

    Raises:
        UserError: another process holds the lock.
    """
    descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(f"{folder}: another process is running this stage") from None
    return descriptor


def empty(folder: Path) -> None:
    """Delete what a stage's folder holds, except its lock.

    The file that marks the folder as a stage's goes last, so that a kill leaves it marked.
    """
    for entry in sorted(folder.iterdir(), key=lambda p: p.name == ATTEMPT):
        if entry.name != LOCK:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def replaced_folder(folder: Path) -> Path:
    """Where the replaced result of a stage lies; on the same disk, also behind a symbolic link."""
    real = folder.resolve()
    return real.with_name(f".{real.name}.replaced")


def set_aside(folder: Path) -> None:
    """Move a finished result aside; its lock, which the caller holds, moves along."""
    delete_replaced(folder)  # this one is newer: its stage was killed while the old was deleted
    folder.resolve().rename(replaced_folder(folder))


def delete_replaced(folder: Path) -> None:
    """Delete the replaced result of a stage, whose new result is whole."""
    old = replaced_folder(folder)
    if old.exists():
        (old / MANIFEST).unlink(missing_ok=True)  # half a result is none
        shutil.rmtree(old)


def restore(folder: Path, fingerprint: str) -> bool:
    """Put the replaced result back if it has this fingerprint; the unfinished new one is deleted.

    Returns:
        Whether the folder now holds that result.

    Raises:
        UserError: the replaced result is damaged, or another process is running the stage.
    """
    old, real = replaced_folder(folder), folder.resolve()
    manifest = read_manifest(old)
    if manifest is None or manifest.fingerprint != fingerprint or (real / MANIFEST).exists():
        return False
    check_files(old, manifest)
    real.mkdir(exist_ok=True)
    descriptor = lock(real)
    try:
        empty(real)
        (real / LOCK).unlink()
        old.rename(real)  # replaces the empty folder
    finally:
        os.close(descriptor)
    return True
