"""Stage import_hf: a Hugging Face folder as a Megatron checkpoint for any layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_dasd.artifacts import LOGS, StageFolder, model_folder
from megatron_dasd.checkpoint.artifact import FOLDER
from megatron_dasd.checkpoint.hf_folder import weights_dtype
from megatron_dasd.config.training import ImportHf
from megatron_dasd.device.launch import launch


def run(settings: ImportHf, inputs: Mapping[str, Path], folder: StageFolder) -> dict[str, Any]:
    """Import the model; the checkpoint keeps the weights' own type."""
    model = model_folder(inputs[settings.model])
    dtype = weights_dtype(model)
    scratch = folder.scratch(FOLDER)
    launch(
        "megatron_dasd.checkpoint.import_program",
        {"model": str(model), "save": str(scratch), "dtype": dtype},
        num_ranks=1,
        log_dir=folder.path / LOGS,
    )
    folder.commit(scratch)
    return {"dtype": dtype}
