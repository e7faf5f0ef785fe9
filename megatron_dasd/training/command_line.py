"""The training program started by hand, under ``torchrun`` or ``srun``, on Megatron's own flags.

The model's architecture, the length of a row and what this program's data and loss ask of Megatron
are given; everything else is the user's to say, as with Megatron's own programs.
"""

import argparse
from pathlib import Path
from typing import Any, get_args

from megatron_dasd.checkpoint.artifact import TRACKER, open_checkpoint
from megatron_dasd.config.training import SET_BY_PRECISION, Loader, Precision
from megatron_dasd.data.meta import read_meta
from megatron_dasd.errors import UserError
from megatron_dasd.losses.cross_entropy import Normalisation
from megatron_dasd.models.architecture import Flags
from megatron_dasd.precision.recipes import precision_flags, weights_dtype
from megatron_dasd.training.program import ROWS_FLAGS


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
        "--dasd-normalise-by",
        choices=get_args(Normalisation),
        default="token",
        help="what weighs the same in the loss",
    )
    parser.add_argument(
        "--dasd-whole-logits",
        action="store_true",
        help="take the loss of whole logits: faster, and much more memory",
    )
    parser.add_argument("--dasd-metrics", metavar="FILE", help="a JSON line for every step")
    own, megatron = parser.parse_known_args(argv)
    if not Path(own.dasd_hf_model).is_dir():
        raise UserError(f"--dasd-hf-model: {own.dasd_hf_model}: no such folder")
    precision = _precision_flags(own.dasd_precision, megatron) if own.dasd_precision else {}
    _look_through_checkpoints(megatron)
    return {
        "flags": {
            "dasd-hf-model": own.dasd_hf_model,
            "seq-length": read_meta(Path(own.dasd_data)).seq_length,
            "micro-batch-size": 1,
            **ROWS_FLAGS,
            **precision,
            # Megatron wants an interval also where there is nothing to evaluate on.
            **({} if own.dasd_heldout else {"eval-iters": 0, "eval-interval": 1}),
        },
        "argv": megatron,
        "data": own.dasd_data,
        "heldout": own.dasd_heldout,
        "num_samples": None,
        "metrics": own.dasd_metrics,
        "loader": own.dasd_loader,
        "loss": {
            "normalise_by": own.dasd_normalise_by,
            "chunked_loss": not own.dasd_whole_logits,
        },
    }


def _precision_flags(precision: Precision, typed: list[str]) -> Flags:
    for flag in typed:
        if flag.split("=")[0].removeprefix("--") in SET_BY_PRECISION:
            raise UserError(f"{flag} follows from --dasd-precision {precision}; leave it out")
    return {"bf16": weights_dtype(precision) == "bfloat16", **precision_flags(precision)}


def _look_through_checkpoints(megatron: list[str]) -> None:
    """Every checkpoint that Megatron would open is looked through before."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--load", type=Path)
    parser.add_argument("--pretrained-checkpoint", type=Path)
    named, _ = parser.parse_known_args(megatron)
    for folder in (named.load, named.pretrained_checkpoint):
        # A run that has not saved yet has nothing there to load.
        if folder and (folder / TRACKER).exists():
            open_checkpoint(folder)
