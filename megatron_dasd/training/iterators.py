"""The rows that a rank trains and is evaluated on, as iterators for ``pretrain()``."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from megatron.core import mpu
from megatron.training import get_args

from megatron_dasd.config.training import Ramp
from megatron_dasd.data.blend import BlendedDataset
from megatron_dasd.data.groups import Names
from megatron_dasd.data.meta import WRITERS, read_meta
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.data.teacher_top import DistillationDataset
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
from megatron_dasd.training.on_policy import OnPolicy
from megatron_dasd.training.throughput import Throughput


def data_iterators(
    _num_samples: Any,
    payload: dict[str, Any],
    throughput: Throughput,
    names: Names,
    on_policy: OnPolicy | None,
    balance: Balance | None = None,
    vp_stage: int | None = None,
) -> tuple[Iterator[Any], Iterator[Any] | None, None]:
    """Training and held-out rows of this rank; the training rows go on after the consumed ones."""
    args = get_args()
    places = (
        Member(mpu.get_data_parallel_rank(), mpu.get_data_parallel_world_size()),
        Member(mpu.get_context_parallel_rank(), mpu.get_context_parallel_world_size()),
    )
    loader = payload["loader"]
    train, packs = _training_rows(payload, names, on_policy)
    throughput.begin(train, packs, args.consumed_train_samples)
    if balance:
        balance.begin(train, packs, args.consumed_train_samples)
    first = args.consumed_train_samples
    train_rows = batches(train, packs, first, *places, loader, payload["distils"])
    if not payload["heldout"]:
        return train_rows, None, None
    heldout = PackedDataset(Path(payload["heldout"]), names)
    packs = heldout_packs(len(heldout), args.global_batch_size)
    return train_rows, batches(heldout, packs, 0, *places, loader), None


def _training_rows(
    payload: dict[str, Any], names: Names, on_policy: OnPolicy | None
) -> tuple[RowSource, PackOf]:
    """The data, and the pack behind a sample."""
    args = get_args()
    num_samples = payload["num_samples"] or args.train_iters * args.global_batch_size
    paths = [Path(payload[name]) for name in ("data", "ramp_data") if payload[name]]
    # every row has the same fields, whichever set of data it is of
    companions = {name for path in paths for name in read_meta(path).companions}
    if on_policy is not None:
        companions.add(WRITERS)
    opened = partial(_open_data, names=names, companions=sorted(companions))
    data = opened(paths[0], payload["teacher_topk"])
    if payload["ramp_data"]:
        second = opened(paths[1], None)
        ramp = Ramp.model_validate(payload["ramp"])
        packs = ramped_packs((len(data), len(second)), num_samples, ramp, args.seed)
        return BlendedDataset(data, second, paths[1]), packs
    packs = training_packs(len(data), num_samples, args.seed)
    if on_policy is None:
        return data, packs
    on_policy.begin(args.consumed_train_samples)
    return on_policy.data(data, opened), on_policy.packs(len(data), packs)


def _open_data(
    path: Path, top: str | Path | None, names: Names, companions: list[str]
) -> PackedDataset:
    if top:
        return DistillationDataset(path, Path(top), names, companions)
    return PackedDataset(path, names, companions)
