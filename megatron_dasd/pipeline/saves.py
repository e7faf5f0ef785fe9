"""A running training's checkpoints, kept and exported beside it."""

import os
import shutil
import sys
from pathlib import Path

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.checkpoint import tracker
from megatron_dasd.checkpoint.artifact import TRACKER, iteration_name, open_checkpoint
from megatron_dasd.checkpoint.export_stage import export_hf
from megatron_dasd.config.training import ExportHf
from megatron_dasd.manifests import LOGS, MODEL


def end_with_training() -> None:
    """Wait for the end of the process at the other end of standard input, and end too."""
    # past Python's buffer, whose lock would abort an interpreter that ends meanwhile
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(0)


def keep_checkpoint(saves: Path, iteration: int, kept: Path) -> bool:
    """Keep a checkpoint in a folder of its own while it is needed: training removes old ones.

    Returns:
        Whether it is there; not when it was being removed just now.
    """
    name = iteration_name(iteration)
    shutil.rmtree(kept, ignore_errors=True)
    (kept / name).mkdir(parents=True)
    try:
        for path in (saves / name).iterdir():
            _link(path, kept / name / path.name)
    except FileNotFoundError:
        return False
    if not tracker.whole(kept):
        return False
    write_atomic(kept / TRACKER, str(iteration).encode())
    return True


def export_weights(checkpoint: Path, model: Path, made: Path, logs: Path) -> None:
    """Export a checkpoint to a folder as ``export_hf`` does; the folder is whole or absent."""
    if made.exists():
        return
    scratch = made.with_name(f".{made.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / MODEL).mkdir(parents=True)
    size = ExportHf.model_fields["max_shard_gb"].default
    export_hf(open_checkpoint(checkpoint), model, scratch / MODEL, logs / LOGS, size)
    scratch.rename(made)


def _link(path: Path, place: Path) -> None:
    try:
        os.link(path, place)
    except FileNotFoundError:
        raise
    except OSError:  # a file system that has no links
        shutil.copyfile(path, place)
