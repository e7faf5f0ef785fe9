"""Stage export_hf: a Megatron checkpoint of any layout as a Hugging Face folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_dasd.artifacts import LOGS, MODEL, StageFolder, model_folder
from megatron_dasd.checkpoint.artifact import open_checkpoint
from megatron_dasd.config.training import ExportHf
from megatron_dasd.device.launch import launch


def run(settings: ExportHf, inputs: Mapping[str, Path], folder: StageFolder) -> dict[str, Any]:
    """Export the checkpoint in the type it was trained in."""
    checkpoint = open_checkpoint(inputs[settings.checkpoint])
    scratch = folder.scratch(MODEL)
    launch(
        "megatron_dasd.checkpoint.export_program",
        {
            "model": str(model_folder(inputs[settings.model])),
            "checkpoint": str(checkpoint.folder),
            "dtype": checkpoint.dtype,
            "out": str(scratch),
        },
        num_ranks=1,
        log_dir=folder.path / LOGS,
    )
    folder.commit(scratch)
    return {"dtype": checkpoint.dtype}
