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
from megatron_dasd.data.groups import Names, all_names
from megatron_dasd.data.meta import read_meta
from megatron_dasd.device.launch import run_program
from megatron_dasd.errors import STOPPED_STATUS
from megatron_dasd.models.architecture import Flags
from megatron_dasd.models.program import parse_argv, to_argv
from megatron_dasd.progress import Bar, progress
from megatron_dasd.training import writers
from megatron_dasd.training.slots import require_slots

if TYPE_CHECKING:
    from megatron_dasd.training.hooks import Hooks

ROWS_FLAGS: Flags = {"calculate-per-token-loss": True, "dataloader-type": "external"}
"""What packed rows ask of Megatron: losses summed over tokens, batches that it does not split."""
_BYTES_OF_A_WEIGHT = {False: 4 + 4 + 4, True: 2 + 4 + 4 + 4}
"""In a checkpoint, by whether it is in bfloat16: the weight, its copy in float32 where it is none,
and both of Adam's moments."""


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
    from megatron_dasd.training.keeper import Keeper
    from megatron_dasd.training.step import forward_step
    from megatron_dasd.training.throughput import Throughput

    adamw.mend()
    numerics, throughput = Numerics(), Throughput(args)
    provider_of_model = with_precision(args, model_provider, numerics)
    set_startup_timestamps(program_start=start, main_entry=time.time())
    provider = partial(_data_iterators, payload=payload, throughput=throughput, names=names)
    provider.is_distributed = True  # type: ignore[attr-defined]  # every rank reads for itself
    acting: list[hooks.Hooks] = []
    if args.save:
        num_weights = start_from.num_weights if start_from else 0
        num_bytes = num_weights * _BYTES_OF_A_WEIGHT[args.bf16]
        acting.append(Keeper(Path(args.save), payload["keep_checkpoints"], num_bytes))
    hooks.install(acting)
    with _progress(args, payload) as bar, _stage_end(acting):
        metrics.install(
            Path(payload["metrics"]) if payload["metrics"] else None,
            lambda samples, seconds: throughput.take(samples, seconds) | numerics.take(),
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


def _data_iterators(
    _num_samples: Any,
    payload: dict[str, Any],
    throughput: Any,
    names: Names,
    vp_stage: int | None = None,
) -> tuple[Iterator[Any], Iterator[Any] | None, None]:
    """Training and held-out rows of this rank; the training rows go on after the consumed ones."""
    from megatron.core import mpu
    from megatron.training import get_args

    from megatron_dasd.config.training import Ramp
    from megatron_dasd.data.blend import BlendedDataset
    from megatron_dasd.data.packed_dataset import PackedDataset
    from megatron_dasd.training.batches import (
        Member,
        batches,
        heldout_packs,
        ramped_packs,
        training_packs,
    )

    args = get_args()
    places = (
        Member(mpu.get_data_parallel_rank(), mpu.get_data_parallel_world_size()),
        Member(mpu.get_context_parallel_rank(), mpu.get_context_parallel_world_size()),
    )
    train = _training_data(payload, names)
    loader = payload["loader"]
    num_samples = payload["num_samples"] or args.train_iters * args.global_batch_size
    if isinstance(train, BlendedDataset):
        first, second = map(len, train.sets)
        ramp = Ramp.model_validate(payload["ramp"])
        train_packs = ramped_packs((first, second), num_samples, ramp, args.seed)
    else:
        train_packs = training_packs(len(train), num_samples, args.seed)
    throughput.begin(train, train_packs, args.consumed_train_samples)
    train_rows = batches(train, train_packs, args.consumed_train_samples, *places, loader)
    if not payload["heldout"]:
        return train_rows, None, None
    heldout = PackedDataset(Path(payload["heldout"]), names)
    packs = heldout_packs(len(heldout), args.global_batch_size)
    return train_rows, batches(heldout, packs, 0, *places, loader), None


def _training_data(payload: dict[str, Any], names: Names) -> Any:
    from megatron_dasd.data.blend import BlendedDataset
    from megatron_dasd.data.packed_dataset import PackedDataset
    from megatron_dasd.data.teacher_top import DistillationDataset

    path = Path(payload["data"])
    if payload["teacher_topk"]:
        return DistillationDataset(path, Path(payload["teacher_topk"]), names)
    if payload["ramp_data"]:
        second = Path(payload["ramp_data"])
        return BlendedDataset(PackedDataset(path, names), PackedDataset(second, names), second)
    return PackedDataset(path, names)


if __name__ == "__main__":
    run_program(main)
