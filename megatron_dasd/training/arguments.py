"""The training program's own flags; those that it does not know are Megatron's."""

import argparse
from typing import get_args

from megatron_dasd.config.choices import Divergence, Loader, LossGradients, Normalisation, Precision


def argument_parser() -> argparse.ArgumentParser:
    """A parser of this program's flags, to be used with ``parse_known_args``.

    None where a flag is not given and the default is that of a train stage's setting.
    """
    parser = argparse.ArgumentParser(
        description="Train with Megatron on packed rows; every further flag is Megatron's own.  "
        "Defaults are those of a train stage.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--dasd-hf-model",
        metavar="DIR",
        required=True,
        help="Hugging Face folder: gives all flags of the architecture",
    )
    _add_data_arguments(parser)
    parser.add_argument(
        "--dasd-precision",
        choices=get_args(Precision),
        help="in place of Megatron's flags; FP8 is emulated where there is no GPU",
    )
    parser.add_argument(
        "--dasd-keep-checkpoints",
        metavar="N",
        type=int,
        help="newest whole checkpoints to keep in --save; all of them by default",
    )
    parser.add_argument(
        "--dasd-metrics", metavar="FILE", help="gets a JSON line for each step (default: none)"
    )
    _add_loss_arguments(parser)
    return parser


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """What is trained on, how often, and what reads it."""
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
    parser.add_argument(
        "--dasd-ramp-data", metavar="DIR", help="a second set of packed data, blended in"
    )
    for name, what in (
        ("start", "its share at the first sample"),
        ("end", "its share at the end of the ramp, and from there on"),
        ("over", "share of the training's samples that the ramp takes"),
    ):
        parser.add_argument(f"--dasd-ramp-{name}", type=float, help=what)
    parser.add_argument("--dasd-heldout", metavar="DIR", help="packed data to evaluate on")
    parser.add_argument(
        "--dasd-loader", choices=get_args(Loader), default="torch", help="what makes the batches"
    )


def _add_loss_arguments(parser: argparse.ArgumentParser) -> None:
    """The settings of a train stage's loss."""
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
        "--dasd-loss-slice-mib",
        type=int,
        metavar="MIB",
        help="of logits held at a time (default: a 64th of the GPU's memory; 384 without a GPU)",
    )
    loss.add_argument(
        "--dasd-teacher-topk", metavar="DIR", help="distil from these tokens, of a score_topk stage"
    )
    loss.add_argument("--dasd-divergence", choices=get_args(Divergence))
    loss.add_argument(
        "--dasd-beta",
        type=float,
        help="the teacher's share of the mixture in jensen_shannon and skew_kl",
    )
    loss.add_argument(
        "--dasd-distillation-weight",
        type=float,
        help="of the divergence; the cross-entropy has what is left of 1",
    )
