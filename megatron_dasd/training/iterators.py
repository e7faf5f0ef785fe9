"""The rows that a rank trains and is evaluated on, as iterators for ``pretrain()``."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from megatron.core import mpu
from megatron.training import get_args

from megatron_dasd.data.blend import BlendedDataset
from megatron_dasd.data.groups import Names
from megatron_dasd.data.meta import WRITERS, read_meta
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.data.teacher_top import DistillationDataset
from megatron_dasd.models.packed import Batch
from megatron_dasd.training.balance import Balance
from megatron_dasd.training.batches import (
    Member,
    PackOf,
    RowSource,
    batches,
    heldout_packs,
    ramped_packs,
    training_packs,
)
from megatron_dasd.training.job import TrainingJob
from megatron_dasd.training.on_policy import OnPolicy
from megatron_dasd.training.step_recorder import StepRecorder


def data_iterators(
    _num_samples: object,
    job: TrainingJob,
    recorder: StepRecorder,
    names: Names,
    on_policy: OnPolicy | None,
    balance: Balance | None = None,
    vp_stage: int | None = None,
) -> tuple[Iterator[Batch], Iterator[Batch] | None, None]:
    """Training and held-out rows of this rank; the training rows follow the consumed ones."""
    args = get_args()
    places = (
        Member(mpu.get_data_parallel_rank(), mpu.get_data_parallel_world_size()),
        Member(mpu.get_context_parallel_rank(), mpu.get_context_parallel_world_size()),
    )
    first = args.consumed_train_samples
    train, packs = _training_rows(job, names, on_policy)
    recorder.begin(train, packs, first)
    if balance:
        balance.begin(train, packs)
    train_rows = batches(train, packs, first, *places, job.loader, job.distils)
    if not job.heldout:
        return train_rows, None, None
    heldout = PackedDataset(job.heldout, names)
    packs = heldout_packs(len(heldout), args.global_batch_size)
    return train_rows, batches(heldout, packs, 0, *places, job.loader), None


def _training_rows(
    job: TrainingJob, names: Names, on_policy: OnPolicy | None
) -> tuple[RowSource, PackOf]:
    """The data, and the pack behind a sample."""
    args = get_args()
    num_samples = job.num_samples or args.train_iters * args.global_batch_size
    # every row has the same fields, whichever set of data it is of
    companions = {name for path in job.training_data for name in read_meta(path).companions}
    if on_policy is not None:
        companions.add(WRITERS)
    opened = partial(_open_data, names=names, companions=sorted(companions))
    data = opened(job.data, job.teacher_topk)
    if job.ramp_data:
        second = opened(job.ramp_data, None)
        packs = ramped_packs((len(data), len(second)), num_samples, job.ramp, args.seed)
        return BlendedDataset(data, second, job.ramp_data), packs
    packs = training_packs(len(data), num_samples, args.seed)
    if on_policy is None:
        return data, packs
    on_policy.begin(args.consumed_train_samples)
    return on_policy.data(data, opened), on_policy.packs(len(data), packs)


def _open_data(path: Path, top: Path | None, names: Names, companions: list[str]) -> PackedDataset:
    if top:
        return DistillationDataset(path, top, names, companions)
    return PackedDataset(path, names, companions)
