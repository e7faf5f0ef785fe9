"""A Megatron checkpoint as a stage leaves it: a ``checkpoint`` folder beside the manifest."""

from dataclasses import dataclass
from pathlib import Path

from megatron_dasd.artifacts import require_manifest
from megatron_dasd.errors import UserError

FOLDER = "checkpoint"
TRACKER = "latest_checkpointed_iteration.txt"


@dataclass(frozen=True)
class MegatronCheckpoint:
    """Where a finished stage's ``torch_dist`` checkpoint lies, and the type of its weights."""

    folder: Path
    dtype: str
    """``bfloat16`` or ``float32``."""


def open_checkpoint(stage_folder: Path) -> MegatronCheckpoint:
    """Find the checkpoint of a finished stage (import_hf or train).

    Raises:
        UserError: the stage has not finished, or is of a kind that leaves no checkpoint.
    """
    manifest = require_manifest(stage_folder)
    folder = stage_folder / FOLDER
    if "dtype" not in manifest.figures or not (folder / TRACKER).exists():
        raise UserError(f"{stage_folder}: a {manifest.kind} stage, which leaves no checkpoint")
    return MegatronCheckpoint(folder=folder, dtype=manifest.figures["dtype"])
