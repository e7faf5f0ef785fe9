"""Stage import_hf: a Hugging Face folder as a Megatron checkpoint for any layout."""

from collections.abc import Mapping
from pathlib import Path

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.checkpoint.artifact import CHECKPOINT_FOLDER, remember_source
from megatron_dasd.checkpoint.convert import total_bytes
from megatron_dasd.checkpoint.hf_folder import (
    HfWeights,
    require_space,
    weights_dtype,
)
from megatron_dasd.checkpoint.payloads import Converted, ImportPayload
from megatron_dasd.checkpoint.process import RESULT, Conversion, run_rank, writing_progress
from megatron_dasd.config.training import ImportHf
from megatron_dasd.manifests import LOGS, model_folder


def run(settings: ImportHf, inputs: Mapping[str, Path], folder: StageFolder) -> dict[str, object]:
    """Import the model; the checkpoint keeps the weights' own type."""
    scratch = folder.scratch(CHECKPOINT_FOLDER)
    converted = import_hf(model_folder(inputs[settings.model]), scratch, folder.path / LOGS)
    folder.commit(scratch)
    return converted.figures()


def import_hf(model: Path, out: Path, log_dir: Path) -> Conversion:
    """Write a model's checkpoint, and what the model came with beside it.

    Args:
        model: a Hugging Face folder.
        out: an empty folder.
        log_dir: where the program's log goes.

    Raises:
        UserError: the disk is full, or the model is not of its own config's architecture.
    """
    dtype = weights_dtype(model)
    num_bytes = total_bytes(HfWeights(model).tensors)
    require_space(out, num_bytes)
    with writing_progress("import", out, num_bytes) as show:
        converted = run_rank(
            "megatron_dasd.checkpoint.import_program",
            ImportPayload(model=model, result=log_dir / RESULT, save=out, dtype=dtype),
            Converted,
            log_dir,
            on_poll=show,
        )
    remember_source(model, out)
    return Conversion(dtype, converted)
