"""Stage export_hf: a Megatron checkpoint of any layout as a Hugging Face folder."""

from collections.abc import Mapping
from pathlib import Path

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.checkpoint.artifact import MegatronCheckpoint, open_checkpoint
from megatron_dasd.checkpoint.card import write_card
from megatron_dasd.checkpoint.hf_folder import GIGABYTE, copy_companions, set_dtype
from megatron_dasd.checkpoint.mtp import set_no_mtp
from megatron_dasd.checkpoint.payloads import Converted, ExportPayload
from megatron_dasd.checkpoint.process import RESULT, Conversion, run_rank, writing_progress
from megatron_dasd.config.training import ExportHf
from megatron_dasd.manifests import LOGS, MODEL, model_folder
from megatron_dasd.models.hf_config import read_architecture


def run(settings: ExportHf, inputs: Mapping[str, Path], folder: StageFolder) -> dict[str, object]:
    """Export the checkpoint in the type it was trained in."""
    checkpoint = open_checkpoint(inputs[settings.checkpoint])
    source = model_folder(inputs[settings.model])
    scratch = folder.scratch(MODEL)
    converted = export_hf(
        checkpoint,
        source,
        scratch,
        folder.path / LOGS,
        settings.max_shard_gb,
        copy_mtp=settings.mtp == "copy",
    )
    card = settings.card.model_copy(update={"name": settings.card.name or folder.path.name})
    write_card(scratch, card, source, inputs[settings.checkpoint])
    folder.commit(scratch)
    return converted.figures()


def export_hf(
    checkpoint: MegatronCheckpoint,
    source: Path,
    out: Path,
    log_dir: Path,
    max_shard_gb: float,
    copy_mtp: bool = False,
) -> Conversion:
    """Write a checkpoint's weights beside what the model came with.

    Args:
        checkpoint: of any layout.
        source: Hugging Face folder with the config, tokenizer and so on; needs no weights, unless
            the text model is a part of it alone, or heads that guess several tokens ahead are
            copied.
        out: an empty folder.
        log_dir: where the program's log goes.
        max_shard_gb: size of a safetensors file, in units of 1e9 bytes.
        copy_mtp: whether the source's heads that guess several tokens ahead are copied; they are
            left out else.  Those of a multimodal model stay, as all of it that is not trained.

    Raises:
        UserError: the disk is full, the checkpoint is not of the config's architecture, or there
            are no heads to copy.
    """
    copy_companions(source, out)
    if not read_architecture(source).family.multimodal:
        set_dtype(out, checkpoint.dtype)
        if not copy_mtp:
            set_no_mtp(out)
    with writing_progress("export", out, checkpoint.num_bytes) as show:
        converted = run_rank(
            "megatron_dasd.checkpoint.export_program",
            ExportPayload(
                model=source,
                result=log_dir / RESULT,
                checkpoint=checkpoint.weights,
                dtype=checkpoint.dtype,
                max_shard_bytes=round(max_shard_gb * GIGABYTE),
                copy_mtp=copy_mtp,
                out=out,
            ),
            Converted,
            log_dir,
            on_poll=show,
        )
    return Conversion(checkpoint.dtype, converted)
