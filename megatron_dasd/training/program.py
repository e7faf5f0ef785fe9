"""The training program of one rank.  Payload: see ``training.stage``."""

import os
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_dasd.checkpoint import tracker
from megatron_dasd.checkpoint.artifact import TRACKER, MegatronCheckpoint, open_checkpoint
from megatron_dasd.data.groups import all_names
from megatron_dasd.data.meta import read_meta
from megatron_dasd.device.launch import run_program
from megatron_dasd.errors import STOPPED_STATUS
from megatron_dasd.models.architecture import Flags
from megatron_dasd.models.program import parse_argv, to_argv
from megatron_dasd.models.sizes import checkpoint_bytes
from megatron_dasd.progress import Bar, progress
from megatron_dasd.training import writers
from megatron_dasd.training.slots import require_slots

if TYPE_CHECKING:
    from megatron_dasd.training.hooks import Hooks

ROWS_FLAGS: Flags = {"calculate-per-token-loss": True, "dataloader-type": "external"}
"""What packed rows ask of Megatron: losses summed over tokens, batches that it does not split."""


def main(payload: dict[str, Any]) -> None:
    """Hand Megatron's ``pretrain()`` our data, model and step."""
    start = time.time()
    # Megatron knows one signal to save and stop on; schedulers send either.
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    argv = [*to_argv(payload["flags"]), *payload.get("argv", [])]
    args = parse_argv([*argv, *writers.prepare(argv)])
    data = [Path(payload[name]) for name in ("data", "ramp_data", "heldout") if payload[name]]
    for path in data:
        require_slots(path, args)
    names = all_names(map(read_meta, data))
    start_from = _look_through_checkpoints(args)
    # after start-up: these modules take their device from the adapter
    from megatron.core.enums import ModelType
    from megatron.training import pretrain, set_startup_timestamps
    from megatron.training.argument_utils import pretrain_cfg_container_from_args

    from megatron_dasd.device import adamw
    from megatron_dasd.models.provider import model_provider
    from megatron_dasd.precision.emulation import with_precision
    from megatron_dasd.precision.numerics import Numerics
    from megatron_dasd.training import hooks, metrics
    from megatron_dasd.training.iterators import data_iterators
    from megatron_dasd.training.keeper import Keeper
    from megatron_dasd.training.on_policy import OnPolicy
    from megatron_dasd.training.step import forward_step
    from megatron_dasd.training.throughput import Throughput

    adamw.mend()
    numerics, throughput = Numerics(), Throughput(args)
    provider_of_model = with_precision(args, model_provider, numerics)
    set_startup_timestamps(program_start=start, main_entry=time.time())
    acting: list[hooks.Hooks] = []
    if args.save:
        num_weights = start_from.num_weights if start_from else 0
        num_bytes = checkpoint_bytes(num_weights, args.bf16)
        acting.append(Keeper(Path(args.save), payload["keep_checkpoints"], num_bytes))
    figures: list[metrics.Figures] = [throughput.take, lambda *_: numerics.take()]
    on_policy = OnPolicy.of(payload["on_policy"], payload["loader"], args)
    if on_policy:
        acting.append(on_policy)
        figures.append(on_policy.take)
    hooks.install(acting)
    provider = partial(
        data_iterators, payload=payload, throughput=throughput, names=names, on_policy=on_policy
    )
    provider.is_distributed = True  # type: ignore[attr-defined]  # every rank reads for itself
    with _progress(args, payload) as bar, _stage_end(acting):
        metrics.install(
            Path(payload["metrics"]) if payload["metrics"] else None,
            figures,
            bar,
        )
        pretrain(
            pretrain_cfg_container_from_args(args),
            provider,
            ModelType.encoder_or_decoder,
            partial(forward_step, groups=names, **payload["loss"]),
            model_provider=provider_of_model,
        )


def main_by_hand(payload: dict[str, Any]) -> None:
    """The same, started by a launcher that goes by exit statuses.

    Raises:
        SystemExit: with status 75 when training was told to stop, or has reached a limit of its
            flags, and wants to be started again.
    """
    try:
        main(payload)
    except SystemExit as ended:
        from megatron.training import get_args

        args = get_args()
        if not ended.code and args.curr_iteration + 1 < args.train_iters:
            raise SystemExit(STOPPED_STATUS) from None
        raise


@contextmanager
def _stage_end(acting: "list[Hooks]") -> Iterator[None]:
    """Tell hooks of the end, unless it is an error."""
    try:
        yield
    finally:
        if not isinstance(sys.exception(), Exception):
            for hook in acting:
                hook.on_stage_end()


def _progress(args: Namespace, payload: dict[str, Any]) -> AbstractContextManager[Bar | None]:
    """A line now and then on rank 0, where no launching process shows the progress."""
    if args.rank or not payload["shows_progress"]:
        return nullcontext()
    done = tracker.read(Path(args.load)) if args.load and not args.finetune else 0
    return progress("training", args.train_iters, "steps", done, plain=True)


def _look_through_checkpoints(args: Namespace) -> MegatronCheckpoint | None:
    """Before Megatron opens what its flags name: where to go on from, or else where to begin."""
    found = None
    for flag in (args.load, args.pretrained_checkpoint):
        if flag and (args.ckpt_step is not None or (Path(flag) / TRACKER).exists()):
            found = open_checkpoint(Path(flag), args.ckpt_step)
    return found


if __name__ == "__main__":
    run_program(main)
