"""The training program started by hand, under ``torchrun`` or ``srun``, on Megatron's own flags.

The model's architecture, the length of a row and what this program's data and loss ask of Megatron
are given; everything else is the user's to say, as with Megatron's own programs.
"""

import argparse
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from megatron_dasd.checkpoint.artifact import open_loaded
from megatron_dasd.checkpoint.seal import damage
from megatron_dasd.config.training import (
    SET_BY_PRECISION,
    Distillation,
    Divergence,
    Loader,
    LossGradients,
    Normalisation,
    Precision,
    Ramp,
)
from megatron_dasd.data.meta import read_meta
from megatron_dasd.errors import UserError
from megatron_dasd.models.architecture import Flags
from megatron_dasd.precision.recipes import precision_flags, weights_dtype
from megatron_dasd.training.flags import check_typed
from megatron_dasd.training.program import ROWS_FLAGS

_SET_BY_EPOCHS = {
    *("--train-iters", "--train-samples", "--lr-decay-iters", "--lr-decay-samples"),
    *("--lr-warmup-iters", "--lr-warmup-samples", "--lr-warmup-fraction"),
}


def payload_of(argv: list[str]) -> dict[str, Any]:
    """What the command line asks for, as the training program takes it.

    Raises:
        UserError: no such model, no packed data there, or a checkpoint that must not be opened.
    """
    parser = argparse.ArgumentParser(
        description="Train with Megatron on packed rows; every further flag is Megatron's own.",
        allow_abbrev=False,
    )
    # Megatron's parser takes this one; here it is only told of.
    parser.add_argument(
        "--dasd-hf-model",
        metavar="DIR",
        required=True,
        help="Hugging Face folder: gives all flags of the architecture",
    )
    parser.add_argument(
        "--dasd-data", metavar="DIR", required=True, help="packed data, of a preprocess stage"
    )
    parser.add_argument(
        "--dasd-epochs",
        type=float,
        help="passes over the data: gives iterations, warm-up and decay; rows of padding fill the "
        "last batch",
    )
    parser.add_argument(
        "--dasd-warmup-fraction", type=float, default=0.1, help="of the iterations of the epochs"
    )
    ramp = Ramp()
    parser.add_argument(
        "--dasd-ramp-data", metavar="DIR", help="a second set of packed data, blended in"
    )
    for name, what in (
        ("start", "its share at the first sample"),
        ("end", "its share at the end of the ramp, and from there on"),
        ("over", "share of the training's samples that the ramp takes"),
    ):
        parser.add_argument(
            f"--dasd-ramp-{name}", type=float, default=getattr(ramp, name), help=what
        )
    parser.add_argument("--dasd-heldout", metavar="DIR", help="packed data to evaluate on")
    parser.add_argument(
        "--dasd-precision",
        choices=get_args(Precision),
        help="in place of Megatron's flags; FP8 is emulated where there is no GPU",
    )
    parser.add_argument(
        "--dasd-loader", choices=get_args(Loader), default="torch", help="what makes the batches"
    )
    parser.add_argument(
        "--dasd-keep-checkpoints",
        metavar="N",
        type=int,
        help="in --save, the newest whole ones; all of them by default",
    )
    parser.add_argument("--dasd-metrics", metavar="FILE", help="a JSON line for every step")
    _add_loss_arguments(parser)
    own, megatron = parser.parse_known_args(argv)
    if not Path(own.dasd_hf_model).is_dir():
        raise UserError(f"--dasd-hf-model: {own.dasd_hf_model}: no such folder")
    if own.dasd_keep_checkpoints is not None and own.dasd_keep_checkpoints < 1:
        raise UserError(f"--dasd-keep-checkpoints {own.dasd_keep_checkpoints}: wanted 1 or more")
    if own.dasd_loss_gradients == "forward" and (own.dasd_teacher_topk or own.dasd_whole_logits):
        raise UserError(
            "--dasd-loss-gradients forward goes neither with --dasd-teacher-topk nor with "
            "--dasd-whole-logits; leave one out"
        )
    if own.dasd_teacher_topk and own.dasd_whole_logits:
        raise UserError("--dasd-teacher-topk does not go with --dasd-whole-logits; leave one out")
    check_typed(megatron)
    precision = _precision_flags(own.dasd_precision, megatron) if own.dasd_precision else {}
    data = read_meta(Path(own.dasd_data))
    num_packs = data.num_packs
    if own.dasd_ramp_data:
        num_packs += read_meta(Path(own.dasd_ramp_data)).num_packs
        if own.dasd_teacher_topk:
            raise UserError("--dasd-teacher-topk is of --dasd-data alone; no --dasd-ramp-data")
    epochs = _Epochs.of(own, megatron, num_packs) if own.dasd_epochs is not None else None
    _look_through_checkpoints(megatron)
    return {
        "flags": {
            "dasd-hf-model": own.dasd_hf_model,
            "seq-length": data.seq_length,
            "micro-batch-size": 1,
            **ROWS_FLAGS,
            **precision,
            **(epochs.flags if epochs else {}),
            # Megatron wants an interval also where there is nothing to evaluate on.
            **({} if own.dasd_heldout else {"eval-iters": 0, "eval-interval": 1}),
            "exit-signal-handler": True,
        },
        "argv": megatron,
        "data": own.dasd_data,
        "ramp_data": own.dasd_ramp_data,
        "ramp": _checked(
            Ramp,
            "ramp-",
            start=own.dasd_ramp_start,
            end=own.dasd_ramp_end,
            over=own.dasd_ramp_over,
        ),
        "heldout": own.dasd_heldout,
        "num_samples": epochs.num_samples if epochs else None,
        "metrics": own.dasd_metrics,
        "keep_checkpoints": own.dasd_keep_checkpoints,
        "shows_progress": True,
        "loader": own.dasd_loader,
        "teacher_topk": own.dasd_teacher_topk,
        "distils": own.dasd_teacher_topk is not None,
        "on_policy": None,
        "loss": {
            "normalise_by": own.dasd_normalise_by,
            "chunked_loss": not own.dasd_whole_logits,
            "loss_gradients": own.dasd_loss_gradients,
            "distillation": _checked(
                Distillation,
                "",
                divergence=own.dasd_divergence,
                beta=own.dasd_beta,
                weight=own.dasd_distillation_weight,
            ),
        },
    }


@dataclass(frozen=True)
class _Epochs:
    """What some passes over the data ask of Megatron, which counts iterations alone."""

    num_samples: int
    flags: Flags

    @classmethod
    def of(cls, own: argparse.Namespace, megatron: list[str], num_packs: int) -> "_Epochs":
        """From what was typed, and told in a line.

        Raises:
            UserError: epochs or fraction of no use, no batch size, or a flag that would be derived.
        """
        if own.dasd_epochs <= 0:
            raise UserError(f"--dasd-epochs {own.dasd_epochs:g}: wanted more than 0")
        if not 0 <= own.dasd_warmup_fraction <= 1:
            raise UserError(f"--dasd-warmup-fraction {own.dasd_warmup_fraction:g}: not in 0 ... 1")
        typed = {flag.split("=")[0] for flag in megatron}
        for flag in sorted(typed & _SET_BY_EPOCHS):
            raise UserError(f"{flag} follows from --dasd-epochs; leave one of them out")
        parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
        parser.add_argument("--global-batch-size", type=int)
        batch = parser.parse_known_args(megatron)[0].global_batch_size
        if not batch:
            raise UserError("--dasd-epochs needs --global-batch-size")
        num_samples = math.ceil(own.dasd_epochs * num_packs)
        iterations = math.ceil(num_samples / batch)
        if os.environ.get("RANK", "0") == "0":
            print(
                f"{own.dasd_epochs:g} epochs of {num_packs:,} packs: {iterations:,} iterations of "
                f"{batch:,} rows, {iterations * batch - num_samples:,} rows of padding in the last",
                flush=True,
            )
        flags: Flags = {
            "train-iters": iterations,
            "lr-decay-iters": iterations,
            "lr-warmup-iters": round(own.dasd_warmup_fraction * iterations),
        }
        return cls(num_samples, flags)


def _checked(kind: type[BaseModel], prefix: str, **values: Any) -> dict[str, Any]:
    """Typed values as settings.

    Args:
        prefix: of the flags, between ``--dasd-`` and the setting's name.

    Raises:
        UserError: with the flag and what is wrong with it.
    """
    try:
        return kind.model_validate(values).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        name = f"{prefix}{first['loc'][0]}"
        flag = {"weight": "distillation-weight"}.get(name, name)
        raise UserError(f"--dasd-{flag}: {first['msg']}") from None


def _add_loss_arguments(parser: argparse.ArgumentParser) -> None:
    """The settings of a train stage's loss, under the same defaults."""
    defaults = Distillation()
    loss = parser.add_argument_group("loss")
    loss.add_argument(
        "--dasd-normalise-by",
        choices=get_args(Normalisation),
        default="token",
        help="what weighs the same: every token with a loss, or every sequence",
    )
    loss.add_argument(
        "--dasd-whole-logits",
        action="store_true",
        help="output layer and loss one after the other, by Megatron: faster, much more memory",
    )
    loss.add_argument(
        "--dasd-loss-gradients",
        choices=get_args(LossGradients),
        default="backward",
        help="forward: a quarter less work in the output layer, room for a copy of its weight",
    )
    loss.add_argument(
        "--dasd-teacher-topk", metavar="DIR", help="distil from these tokens, of a score_topk stage"
    )
    loss.add_argument(
        "--dasd-divergence", choices=get_args(Divergence), default=defaults.divergence
    )
    loss.add_argument(
        "--dasd-beta",
        type=float,
        default=defaults.beta,
        help="the teacher's share of the mixture in jensen_shannon and skew_kl",
    )
    loss.add_argument(
        "--dasd-distillation-weight",
        type=float,
        default=defaults.weight,
        help="of the divergence; the cross-entropy has what is left of 1",
    )


def _precision_flags(precision: Precision, typed: list[str]) -> Flags:
    for flag in typed:
        if flag.split("=")[0].removeprefix("--") in SET_BY_PRECISION:
            raise UserError(f"{flag} follows from --dasd-precision {precision}; leave it out")
    return {"bf16": weights_dtype(precision) == "bfloat16", **precision_flags(precision)}


def _look_through_checkpoints(megatron: list[str]) -> None:
    """Every checkpoint that Megatron would open is looked through before."""
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
