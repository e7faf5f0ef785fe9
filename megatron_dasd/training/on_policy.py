"""The training's side of on-policy training: finished rows in, weights out, between steps.

Rank 0 reads the files of the exchange and broadcasts what is new over the CPU, so that every rank
knows the same rows before the step that they enter at.  Training never waits for the worker.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

import torch
import torch.distributed as dist

from megatron_dasd.checkpoint.artifact import iteration_name
from megatron_dasd.config.choices import Loader
from megatron_dasd.data.growing import GrowingDataset
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.device import cpu_adapter
from megatron_dasd.training.batches import PackOf
from megatron_dasd.training.exchange import Exchange, Round
from megatron_dasd.training.hooks import Hooks
from megatron_dasd.training.job import OnPolicyRows
from megatron_dasd.training.ledger import Ledger, Line, Schedule

# A row that enters at a step that is already read would be missed.
_READ_AHEAD = 3
"""Steps whose rows a loader that reads ahead may have read when a step ends."""


@dataclass(frozen=True, kw_only=True)
class RowQuota:
    """How many of the worker's rows enter at which steps."""

    global_batch_size: int
    num_samples: int
    """Samples of the training; those behind them are padding."""
    share: float
    """Of all rows up to a step, the largest share that may be the worker's."""
    max_age: int
    """Iterations between the weights of a row and those that it is trained with, at most."""

    @property
    def last_iteration(self) -> int:
        """The training's last iteration, counted from 1."""
        return -(-self.num_samples // self.global_batch_size)

    def most(self, iteration: int) -> int:
        """Rows of the worker that an iteration takes at most.

        Rounded down over the whole training so far rather than step by step: a share of 0.1 of
        4 rows would otherwise never let a row in.
        """
        until, before = (
            # 0.29 * 100 is 28.999...: without the small number rounding would lose a row
            int(self.share * min(i * self.global_batch_size, self.num_samples) + 1e-9)
            for i in (iteration, iteration - 1)
        )
        return until - before


@dataclass(frozen=True)
class _News:
    """What rank 0 broadcasts between two steps."""

    lines: list[Line]
    """New lines of the ledger."""
    weights_due: bool = False
    """Whether the worker gets weights now, which all ranks save together."""


class OnPolicy(Hooks):
    """Takes rows in and hands weights out."""

    def __init__(
        self, exchange: Exchange, quota: RowQuota, every: int | None, loader: Loader
    ) -> None:
        """Read nothing before :meth:`begin`.

        Args:
            exchange: the files shared with the worker.
            quota: which rows may enter.
            every: fewest iterations between two exports of weights; None: there are none.
            loader: what reads rows, perhaps ahead of their step.
        """
        self.schedule = Schedule()
        self._exchange, self._quota, self._every = exchange, quota, every
        # The default loader reads ahead where there is a GPU to copy to, DALI everywhere.
        self._ahead = 0 if loader == "torch" and cpu_adapter.needed() else _READ_AHEAD
        self._group: dist.ProcessGroup | None = None
        self._ledger: Ledger | None = None
        self._exported = 0
        """Iteration of the newest weights that the worker got from this process."""

    def begin(self, consumed_samples: int) -> None:
        """Resume behind ``consumed_samples``; every rank calls this."""
        if self._group is not None:
            return  # another virtual pipeline stage of this rank has called this
        # A group of its own over gloo: NCCL would copy these few bytes through the GPU, and wait
        # there for the step's kernels.
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup), "every rank is a member"
        self._group = group
        iteration = consumed_samples // self._quota.global_batch_size
        news = _News([])
        if dist.get_rank() == 0:
            self._ledger = Ledger(self._exchange.ledger)
            news = _News(self._ledger.lines)
        self.schedule.take(self._broadcast(news).lines)
        # A killed run may have come further than its last checkpoint.  The steps in between are
        # run again and must meet the same rows, so no new row is planned into them.
        self._may_have_run = max(iteration, self.schedule.reached)
        self._exchange_news(iteration, iteration + 1)

    def on_step_end(self, iteration: int, model: Sequence[torch.nn.Module]) -> None:
        """Plan rows into steps to come, and export weights if the worker waits for them."""
        if self._exchange_news(iteration, iteration + 1 + self._ahead):
            save_weights(self._exchange.weights, iteration, model)
            self._exported = iteration
            # The request is answered; the worker makes another when it needs newer weights.
            if dist.get_rank() == 0:
                self._exchange.no_longer_wanted()

    def on_stage_end(self) -> None:
        """Withdraw the worker's request: no more weights will come but the checkpoint's."""
        if dist.is_initialized() and dist.get_rank() == 0:
            self._exchange.no_longer_wanted()

    def packs(self, num_first: int, first: PackOf) -> PackOf:
        """Packs of a training: the worker's rows first in a step, the data's in the other places.

        The data loses no row to the worker: its rows continue where the step before left them.

        Args:
            num_first: packs of the data; the worker's rows are numbered from here on.
            first: packs of the data by the number of a sample among the data's samples.
        """
        quota, schedule = self._quota, self.schedule

        def pack_of(sample: int) -> int | None:
            if sample >= quota.num_samples:
                return None
            before, place = divmod(sample, quota.global_batch_size)
            own = schedule.rows(before + 1)
            if place < len(own):
                return num_first + schedule.number(own[place])
            return first(sample - schedule.num_up_to(before + 1))

        return pack_of

    def data(
        self, first: PackedDataset, open_data: Callable[[Path, Path | None], PackedDataset]
    ) -> GrowingDataset:
        """The data and the rows of the worker, which grow while training runs.

        Args:
            first: the data.
            open_data: opens packed data, with the teacher's likeliest tokens if there are any.
        """

        def open_added(number: int) -> PackedDataset:
            made = next(self._exchange.finished(number))
            folder = self._exchange.round_folder(number)
            top = folder / made.teacher_topk if made.teacher_topk else None
            return open_data(folder / made.data, top)

        return GrowingDataset(first, self.schedule.place, open_added)

    def ages(self, samples: range) -> list[int]:
        """Ages in iterations of the worker's rows among samples that make up whole steps."""
        size = self._quota.global_batch_size
        return [
            self.schedule.age(place, iteration)
            for iteration in range(samples.start // size + 1, samples.stop // size + 1)
            for place in self.schedule.rows(iteration)
        ]

    def _exchange_news(self, iteration: int, first_open: int) -> bool:
        """Let all ranks know of new rows; returns whether weights are to be exported.

        Args:
            iteration: the one that has just been made.
            first_open: the first that may still get rows.
        """
        news = _News([])
        if self._ledger is not None:  # on rank 0
            first = max(first_open, self._may_have_run + 1)
            lines = [line for made in self._new_rounds() for line in self._enter(made, first)]
            # The ledger says that the next step may run before it does, or a kill during that
            # step would let the resumed run plan other rows into it.
            lines += self._ledger.reach(iteration + 1)
            news = _News(lines, self._is_due(iteration))
        news = self._broadcast(news)
        self.schedule.take(news.lines)
        return news.weights_due

    def _new_rounds(self) -> Iterator[Round]:
        return self._exchange.finished(self.schedule.num_rounds)

    def _enter(self, made: Round, first: int) -> list[Line]:
        assert self._ledger is not None
        quota = self._quota
        ages = made.iteration, quota.max_age
        return self._ledger.enter(made.num_rows, *ages, first, quota.last_iteration, quota.most)

    def _is_due(self, iteration: int) -> bool:
        """Whether the worker waits for weights, and these are new enough."""
        if self._every is None or iteration < self._exported + self._every:
            return False
        wanted = self._exchange.wanted()
        return wanted is not None and wanted < iteration

    def _broadcast(self, news: _News) -> _News:
        """What rank 0 passes in, on every rank."""
        box = [news]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]


def on_policy_of_job(
    rows: OnPolicyRows | None, loader: Loader, global_batch_size: int
) -> OnPolicy | None:
    """What a training job asks for; None: there is no worker."""
    if rows is None:
        return None
    quota = RowQuota(
        global_batch_size=global_batch_size,
        num_samples=rows.num_samples,
        share=rows.share,
        max_age=rows.max_age,
    )
    return OnPolicy(Exchange(rows.stage), quota, rows.every, loader)


def save_weights(folder: Path, iteration: int, model: Sequence[torch.nn.Module]) -> None:
    """Save a running training's weights as a Megatron checkpoint without optimizer state.

    Every rank calls this.  Weights of earlier iterations are removed.
    """
    from megatron.training import get_args
    from megatron.training.checkpointing import save_checkpoint
    from megatron.training.training import force_param_sync, should_disable_forward_pre_hook

    args = get_args()
    if should_disable_forward_pre_hook(args):
        # With overlap-param-gather a step's weights are gathered by the forward pass of the next.
        force_param_sync(model)
    if dist.get_rank() == 0:
        rmtree(folder / iteration_name(iteration), ignore_errors=True)  # of a run that was killed
    dist.barrier()
    # save_checkpoint takes where and what to save from Megatron's global arguments alone.  It is
    # not asynchronous here: the worker may read the files as soon as this returns.
    swapped = {
        "save": str(folder),
        "async_save": False,
        "no_save_optim": True,
        "no_save_rng": True,
    }
    before = {name: getattr(args, name) for name in swapped}
    vars(args).update(swapped)
    try:
        save_checkpoint(iteration, model, None, None, num_floating_point_operations_so_far=0)
    finally:
        vars(args).update(before)
    if dist.get_rank() == 0:
        # The worker links the files that it needs (pipeline.rollout_worker), so they may go.
        for old in folder.glob("iter_*"):
            if old.name != iteration_name(iteration):
                rmtree(old, ignore_errors=True)
