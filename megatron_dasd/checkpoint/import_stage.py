"""Stage import_hf: a Hugging Face folder as a Megatron checkpoint for any layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.checkpoint.artifact import FOLDER, remember_source
from megatron_dasd.checkpoint.convert import total_bytes
from megatron_dasd.checkpoint.hf_folder import (
    HfWeights,
    require_space,
    weights_dtype,
)
from megatron_dasd.checkpoint.process import run_rank, writing_progress
from megatron_dasd.config.training import ImportHf
from megatron_dasd.manifests import LOGS, model_folder


def run(settings: ImportHf, inputs: Mapping[str, Path], folder: StageFolder) -> dict[str, Any]:
    """Import the model; the checkpoint keeps the weights' own type."""
    scratch = folder.scratch(FOLDER)
    figures = import_hf(model_folder(inputs[settings.model]), scratch, folder.path / LOGS)
    folder.commit(scratch)
    return figures


def import_hf(model: Path, out: Path, log_dir: Path) -> dict[str, Any]:
    """Write a model's checkpoint, and what the model came with beside it.

    Args:
        model: a Hugging Face folder.
        out: an empty folder.

    Returns:
        The type of the weights, the number of tensors, the largest memory it took.
    """
    dtype = weights_dtype(model)
    num_bytes = total_bytes(HfWeights(model).tensors)
    require_space(out, num_bytes)
    with writing_progress("import", out, num_bytes) as show:
        figures = run_rank(
            "megatron_dasd.checkpoint.import_program",
            {"model": str(model), "save": str(out), "dtype": dtype},
            log_dir,
            on_poll=show,
        )
    remember_source(model, out)
    return {"dtype": dtype, **figures}
