"""The training program started by hand, under ``torchrun`` or ``srun``, on Megatron's own flags.

The model's architecture, the length of a row and what this program's data and loss need of Megatron
are given; everything else is the user's to choose, as with Megatron's own programs.
"""

import argparse
import math
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from megatron_dasd.checkpoint.artifact import open_loaded
from megatron_dasd.checkpoint.seal import damage
from megatron_dasd.config.choices import Precision
from megatron_dasd.config.training import SET_BY_PRECISION, Distillation, Ramp
from megatron_dasd.data.meta import DataMeta, read_meta
from megatron_dasd.errors import UserError
from megatron_dasd.models.architecture import Flags
from megatron_dasd.precision.recipes import precision_flags, weights_dtype
from megatron_dasd.printing import say
from megatron_dasd.training.arguments import argument_parser
from megatron_dasd.training.flags import check_typed
from megatron_dasd.training.job import LossSettings, TrainingJob
from megatron_dasd.training.program import ROWS_FLAGS

_SET_BY_EPOCHS = {
    "--train-iters",
    "--train-samples",
    "--lr-decay-iters",
    "--lr-decay-samples",
    "--lr-warmup-iters",
    "--lr-warmup-samples",
    "--lr-warmup-fraction",
}


def job_from_argv(argv: list[str]) -> TrainingJob:
    """The training job that a command line asks for.

    Raises:
        UserError: no such model, no packed data there, or a checkpoint that must not be opened.
    """
    own, megatron = argument_parser().parse_known_args(argv)
    _refuse_contradictions(own)
    check_typed(megatron)
    data = read_meta(Path(own.dasd_data))
    num_packs = data.num_packs
    if own.dasd_ramp_data:
        num_packs += read_meta(Path(own.dasd_ramp_data)).num_packs
    epochs = _Epochs.typed(own, megatron, num_packs) if own.dasd_epochs is not None else None
    _inspect_checkpoints(megatron)
    return TrainingJob(
        flags=_flags(own, megatron, data, epochs),
        argv=megatron,
        data=Path(own.dasd_data),
        ramp_data=_path(own.dasd_ramp_data),
        ramp=_checked(
            Ramp,
            "ramp-",
            start=own.dasd_ramp_start,
            end=own.dasd_ramp_end,
            over=own.dasd_ramp_over,
        ),
        heldout=_path(own.dasd_heldout),
        num_samples=epochs.num_samples if epochs else None,
        teacher_topk=_path(own.dasd_teacher_topk),
        distils=own.dasd_teacher_topk is not None,
        loader=own.dasd_loader,
        loss=LossSettings(
            normalise_by=own.dasd_normalise_by,
            chunked_loss=not own.dasd_whole_logits,
            loss_gradients=own.dasd_loss_gradients,
            slice_mib=own.dasd_loss_slice_mib,
            distillation=_checked(
                Distillation,
                "",
                divergence=own.dasd_divergence,
                beta=own.dasd_beta,
                weight=own.dasd_distillation_weight,
            ),
        ),
        metrics=_path(own.dasd_metrics),
        keep_checkpoints=own.dasd_keep_checkpoints,
        shows_progress=True,
    )


def _path(typed: str | None) -> Path | None:
    return Path(typed) if typed else None


def _refuse_contradictions(own: argparse.Namespace) -> None:
    """Stop on flags of this program that make no sense, or not together.

    Raises:
        UserError: naming them.
    """
    if not Path(own.dasd_hf_model).is_dir():
        raise UserError(f"--dasd-hf-model: {own.dasd_hf_model}: no such folder")
    if own.dasd_keep_checkpoints is not None and own.dasd_keep_checkpoints < 1:
        raise UserError(f"--dasd-keep-checkpoints {own.dasd_keep_checkpoints}: must be 1 or more")
    if own.dasd_loss_slice_mib is not None and own.dasd_loss_slice_mib < 1:
        raise UserError(f"--dasd-loss-slice-mib {own.dasd_loss_slice_mib}: must be 1 or more")
    if own.dasd_loss_gradients == "forward" and (own.dasd_teacher_topk or own.dasd_whole_logits):
        raise UserError(
            "--dasd-loss-gradients forward goes neither with --dasd-teacher-topk nor with "
            "--dasd-whole-logits; leave one out"
        )
    if own.dasd_teacher_topk and own.dasd_whole_logits:
        raise UserError("--dasd-teacher-topk does not go with --dasd-whole-logits; leave one out")
    if own.dasd_teacher_topk and own.dasd_ramp_data:
        raise UserError("--dasd-teacher-topk is of --dasd-data alone; no --dasd-ramp-data")


def _flags(
    own: argparse.Namespace, megatron: list[str], data: DataMeta, epochs: "_Epochs | None"
) -> Flags:
    precision = _precision_flags(own.dasd_precision, megatron) if own.dasd_precision else {}
    return {
        "dasd-hf-model": own.dasd_hf_model,
        "seq-length": data.seq_length,
        "micro-batch-size": 1,
        **ROWS_FLAGS,
        **precision,
        **(epochs.flags if epochs else {}),
        # Megatron needs an interval also where there is nothing to evaluate on.
        **({} if own.dasd_heldout else {"eval-iters": 0, "eval-interval": 1}),
        "exit-signal-handler": True,
    }


@dataclass(frozen=True)
class _Epochs:
    """Passes over the data as flags of Megatron, which counts iterations alone."""

    num_samples: int
    flags: Flags

    @classmethod
    def typed(cls, own: argparse.Namespace, megatron: list[str], num_packs: int) -> "_Epochs":
        """From the command line; rank 0 prints what follows from it.

        Raises:
            UserError: epochs or fraction out of range, no batch size, or a flag that is derived.
        """
        if own.dasd_epochs <= 0:
            raise UserError(f"--dasd-epochs {own.dasd_epochs:g}: must be more than 0")
        if not 0 <= own.dasd_warmup_fraction <= 1:
            raise UserError(f"--dasd-warmup-fraction {own.dasd_warmup_fraction:g}: not in 0 ... 1")
        names = {flag.split("=")[0] for flag in megatron}
        for flag in sorted(names & _SET_BY_EPOCHS):
            raise UserError(f"{flag} follows from --dasd-epochs; leave one of them out")
        parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
        parser.add_argument("--global-batch-size", type=int)
        batch = parser.parse_known_args(megatron)[0].global_batch_size
        if not batch:
            raise UserError("--dasd-epochs needs --global-batch-size")
        num_samples = math.ceil(own.dasd_epochs * num_packs)
        iterations = math.ceil(num_samples / batch)
        if os.environ.get("RANK", "0") == "0":
            say(
                f"{own.dasd_epochs:g} epochs of {num_packs:,} packs: {iterations:,} iterations of "
                f"{batch:,} rows, {iterations * batch - num_samples:,} rows of padding in the last"
            )
        flags: Flags = {
            "train-iters": iterations,
            "lr-decay-iters": iterations,
            "lr-warmup-iters": round(own.dasd_warmup_fraction * iterations),
        }
        return cls(num_samples, flags)


def _checked[S: BaseModel](kind: type[S], prefix: str, **values: object) -> S:
    """Typed values as settings.

    Args:
        kind: class of the settings.
        prefix: of the flags, between ``--dasd-`` and the setting's name.
        values: by the setting's name; None: the setting's default.

    Raises:
        UserError: with the flag and what is wrong with it.
    """
    try:
        return kind.model_validate({k: v for k, v in values.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = f"{prefix}{first['loc'][0]}"
        flag = {"weight": "distillation-weight"}.get(name, name)
        raise UserError(f"--dasd-{flag}: {first['msg']}") from None


def _precision_flags(precision: Precision, megatron: list[str]) -> Flags:
    for flag in megatron:
        if flag.split("=")[0].removeprefix("--") in SET_BY_PRECISION:
            raise UserError(f"{flag} follows from --dasd-precision {precision}; leave it out")
    return {"bf16": weights_dtype(precision) == "bfloat16", **precision_flags(precision)}


def _inspect_checkpoints(megatron: list[str]) -> None:
    """Check every checkpoint that Megatron would open, before it does.

    Raises:
        UserError: one must not be opened, or is damaged.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--load")
    parser.add_argument("--pretrained-checkpoint")
    parser.add_argument("--ckpt-step", type=int)
    named, _ = parser.parse_known_args(megatron)
    loaded = open_loaded(named.load, named.pretrained_checkpoint, named.ckpt_step)
    # every file is read, so by one rank alone
    if loaded and os.environ.get("RANK", "0") == "0" and (found := damage(loaded.weights)):
        folder = loaded.folder
        raise UserError(f"{found}; tools/repair_checkpoints.py {folder} sets it aside")
