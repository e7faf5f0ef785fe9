"""The training program of one rank; what it is to do is a ``training.job.TrainingJob``."""

import os
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_dasd.checkpoint import tracker
from megatron_dasd.checkpoint.artifact import MegatronCheckpoint, open_loaded
from megatron_dasd.checkpoint.pickles import allow_extra_states
from megatron_dasd.data.groups import all_names
from megatron_dasd.data.meta import read_meta
from megatron_dasd.device.launch import run_program
from megatron_dasd.errors import STOPPED_STATUS
from megatron_dasd.manifests import model_folder
from megatron_dasd.models.architecture import Flags
from megatron_dasd.models.hf_config import read_architecture
from megatron_dasd.models.program import parse_argv, to_argv
from megatron_dasd.models.sizes import checkpoint_bytes
from megatron_dasd.progress import Bar, progress
from megatron_dasd.training import dashboards
from megatron_dasd.training.job import TrainingJob
from megatron_dasd.training.schedule import check_schedule
from megatron_dasd.training.slots import require_slots

if TYPE_CHECKING:
    from megatron_dasd.precision.emulation import ModelProvider
    from megatron_dasd.precision.numerics import Numerics
    from megatron_dasd.training.balance import Balance
    from megatron_dasd.training.hooks import Hooks
    from megatron_dasd.training.on_policy import OnPolicy
    from megatron_dasd.training.step_recorder import StepRecorder

ROWS_FLAGS: Flags = {
    "calculate-per-token-loss": True,
    "dataloader-type": "external",
    # It waits for the GPU twice a bucket of gradients; losses and the norm of the gradients are
    # checked here once a step (``loss_check``, ``megatron_log``).
    "no-check-for-nan-in-loss-and-grad": True,
}
"""What packed rows need of Megatron: losses summed over tokens, batches that it does not split, and
no check of its own."""


def main(job: TrainingJob) -> None:
    """Hand Megatron's ``pretrain()`` our data, model and step."""
    start = time.time()
    # From its own start on Megatron saves and stops on one signal; schedulers send either.
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    argv = [*to_argv(job.flags), *job.argv]
    args = parse_argv([*argv, *dashboards.prepare(argv)])
    for path in job.packed_data:
        require_slots(path, args)
    names = all_names(map(read_meta, job.packed_data))
    checkpoint = _inspect_checkpoints(args)
    # after start-up: these modules take their device from the adapter
    from megatron.core.enums import ModelType
    from megatron.training import pretrain, set_startup_timestamps
    from megatron.training.argument_utils import pretrain_cfg_container_from_args

    from megatron_dasd.device import adamw
    from megatron_dasd.precision.numerics import Numerics
    from megatron_dasd.training import hooks, megatron_log, save_worker
    from megatron_dasd.training.balance import Balance
    from megatron_dasd.training.evaluations import EvaluationLog
    from megatron_dasd.training.iterators import data_iterators
    from megatron_dasd.training.loss_check import LossCheck
    from megatron_dasd.training.on_policy import on_policy_of_job
    from megatron_dasd.training.step import forward_step

    adamw.mend()
    numerics = Numerics()
    balance = Balance.from_args(args, job.loss.normalise_by)
    set_startup_timestamps(program_start=start, main_entry=time.time())
    on_policy = on_policy_of_job(job.on_policy, job.loader, args.global_batch_size)
    recorder = _step_recorder(args, numerics, on_policy)
    acting = [*_keepers(job, args, checkpoint), *([on_policy] if on_policy else [])]
    acting += [EvaluationLog(job.evaluated_stage)] if job.evaluated_stage else []
    hooks.install(acting)
    provider = partial(
        data_iterators,
        job=job,
        recorder=recorder,
        names=names,
        on_policy=on_policy,
        balance=balance,
    )
    provider.is_distributed = True  # type: ignore[attr-defined]  # every rank reads for itself
    with _progress(args, job) as bar, save_worker.bound_to_this_rank(), _stage_end(acting):
        megatron_log.install(job.metrics, recorder, bar)
        pretrain(
            pretrain_cfg_container_from_args(args),
            provider,
            ModelType.encoder_or_decoder,
            partial(
                forward_step,
                groups=names,
                settings=job.loss,
                check=LossCheck(),
            ),
            model_provider=_model_provider(args, numerics, balance),
        )


def _step_recorder(
    args: Namespace, numerics: "Numerics", on_policy: "OnPolicy | None"
) -> "StepRecorder":
    from megatron_dasd.training.step_recorder import StepRecorder

    architecture = read_architecture(model_folder(Path(args.dasd_hf_model)))
    return StepRecorder(architecture, args.world_size, numerics, on_policy)


def _model_provider(
    args: Namespace, numerics: "Numerics", balance: "Balance | None"
) -> "ModelProvider":
    """What makes the models, in the job's precision; a router's losses have their weight."""
    from megatron_dasd.models.provider import model_provider
    from megatron_dasd.precision.emulation import with_precision

    provider = with_precision(args, model_provider, numerics)
    return balance.attached(provider) if balance else provider


def _keepers(
    job: TrainingJob, args: Namespace, checkpoint: MegatronCheckpoint | None
) -> "list[Hooks]":
    """What keeps the checkpoints, if any are saved."""
    if not args.save:
        return []
    from megatron_dasd.training.keeper import Keeper
    from megatron_dasd.training.saving import InterimSaves

    num_bytes = checkpoint_bytes(checkpoint.num_weights, args.bf16) if checkpoint else 0
    saves = Path(args.save)
    interim = [InterimSaves(saves, job.launch)] if job.launch else []
    return [*interim, Keeper(saves, job.keep_checkpoints, num_bytes)]


def main_by_hand(job: TrainingJob) -> None:
    """The same, for a launcher that goes by exit statuses.

    Raises:
        SystemExit: with status 75 when training was stopped by a signal or a limit of its flags,
            and resumes when it is started again.
    """
    try:
        main(job)
    except SystemExit as ended:
        from megatron.training import get_args

        args = get_args()
        if not ended.code and args.curr_iteration + 1 < args.train_iters:
            raise SystemExit(STOPPED_STATUS) from None
        raise


@contextmanager
def _stage_end(acting: "list[Hooks]") -> Iterator[None]:
    """Call the hooks at the end, unless it is an error."""
    try:
        yield
    finally:
        if not isinstance(sys.exception(), Exception):
            for hook in acting:
                hook.on_stage_end()


def _progress(args: Namespace, job: TrainingJob) -> AbstractContextManager[Bar | None]:
    """A line now and then on rank 0, where no launching process shows the progress."""
    if args.rank or not job.shows_progress:
        return nullcontext()
    done = tracker.read(Path(args.load)) if args.load and not args.finetune else 0
    return progress("training", args.train_iters, "steps", done, plain=True)


def _inspect_checkpoints(args: Namespace) -> MegatronCheckpoint | None:
    """Check what Megatron's flags name before it opens any of it.

    Returns:
        Where training resumes, or else where it begins; None: it begins with random weights.
    """
    found = open_loaded(args.load, args.pretrained_checkpoint, args.ckpt_step)
    allow_extra_states()
    if found and args.load and found.folder == Path(args.load):
        check_schedule(args, found.weights)
    return found


if __name__ == "__main__":
    run_program(main)
