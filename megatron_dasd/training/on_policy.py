"""The training's side of on-policy training: finished rows in, weights out, at step borders.

Rank 0 looks at the files of the exchange and tells the others over the CPU, so that every rank
knows the same rows before the step that they enter at.  Nobody waits for the worker.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
import torch.distributed as dist

from megatron_dasd.checkpoint.artifact import iteration_name
from megatron_dasd.data.growing import GrowingDataset
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.training.batches import PackOf
from megatron_dasd.training.exchange import Exchange, Round
from megatron_dasd.training.hooks import Hooks
from megatron_dasd.training.ledger import Ledger, Line, Schedule

_READ_AHEAD = {"torch": 0, "dali": 3}
"""Steps whose rows a loader may have read when a step ends."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What rows may enter, and where."""

    global_batch_size: int
    num_samples: int
    """Of the training; behind them there is padding."""
    share: float
    max_age: int
    every: int | None

    @property
    def last_iteration(self) -> int:
        """Of the training, counted from 1."""
        return -(-self.num_samples // self.global_batch_size)

    def most(self, iteration: int) -> int:
        """Rows that an iteration takes: with those before it their share of all, rounded down."""
        until, before = (
            int(self.share * min(i * self.global_batch_size, self.num_samples) + 1e-9)
            for i in (iteration, iteration - 1)
        )
        return until - before


class OnPolicy(Hooks):
    """Takes rows in and hands weights out."""

    def __init__(self, exchange: Exchange, plan: Plan, loader: str) -> None:
        """Nothing is read before :meth:`begin`."""
        self.schedule = Schedule()
        self._exchange, self._plan = exchange, plan
        self._ahead = _READ_AHEAD[loader]
        self._group: Any = None
        self._ledger: Ledger | None = None
        self._sample = 0
        self._handed_over = 0

    @classmethod
    def of(cls, given: dict[str, Any] | None, loader: str, args: Namespace) -> "OnPolicy | None":
        """What a payload asks for.

        Args:
            given: fields of :class:`Plan`, and the stage's folder.
            args: Megatron's.
        """
        if not given:
            return None
        plan = {name: given[name] for name in ("share", "max_age", "every", "num_samples")}
        return cls(
            Exchange(Path(given["stage"])),
            Plan(global_batch_size=args.global_batch_size, **plan),
            loader,
        )

    def begin(self, consumed_samples: int) -> None:
        """Training goes on behind some samples; every rank calls this."""
        if self._group is not None:
            return  # another virtual pipeline stage of this rank has
        self._group = dist.new_group(backend="gloo")
        self._sample = consumed_samples
        iteration = consumed_samples // self._plan.global_batch_size
        lines: list[Line] = []
        if dist.get_rank() == 0:
            self._ledger = Ledger(self._exchange.ledger)
            lines = self._ledger.lines
        lines, _ = self._tell((lines, False))
        self.schedule.take(lines)
        self._may_have_run = max(iteration, self.schedule.reached)
        self._meet(iteration, iteration + 1)

    def on_step_end(self, iteration: int, model: Sequence[torch.nn.Module]) -> None:
        """Rows for steps to come, and weights if they are waited for."""
        if self._meet(iteration, iteration + 1 + self._ahead):
            save_weights(self._exchange.weights, iteration, model)
            self._handed_over = iteration
            if dist.get_rank() == 0:
                self._exchange.no_longer_wanted()

    def on_stage_end(self) -> None:
        """No more weights than those of the checkpoint."""
        if dist.is_initialized() and dist.get_rank() == 0:
            self._exchange.no_longer_wanted()

    def packs(self, num_first: int, first: PackOf) -> PackOf:
        """Packs of a training: own rows in the first places of a step, the data's in the others.

        Args:
            num_first: packs of the data; own rows are numbered from here on.
            first: packs of the data by the number of a sample among them.
        """
        plan, schedule = self._plan, self.schedule

        def pack_of(sample: int) -> int | None:
            if sample >= plan.num_samples:
                return None
            before, place = divmod(sample, plan.global_batch_size)
            own = schedule.rows(before + 1)
            if place < len(own):
                return num_first + schedule.number(own[place])
            return first(sample - schedule.num_up_to(before + 1))

        return pack_of

    def data(
        self, first: PackedDataset, open_data: Callable[[Path, Path | None], PackedDataset]
    ) -> GrowingDataset:
        """The data and the rows that come.

        Args:
            open_data: opens packed data, with the teacher's likeliest tokens if there are any.
        """

        def open_added(number: int) -> PackedDataset:
            made = next(self._exchange.finished(number))
            folder = self._exchange.round_folder(number)
            top = folder / made.teacher_topk if made.teacher_topk else None
            return open_data(folder / made.data, top)

        return GrowingDataset(first, self.schedule.place, open_added)

    def take(self, consumed_samples: int, _seconds: float) -> dict[str, Any]:
        """Figures of the steps up to ``consumed_samples``."""
        size = self._plan.global_batch_size
        ages = [
            self.schedule.age(place, iteration)
            for iteration in range(self._sample // size + 1, consumed_samples // size + 1)
            for place in self.schedule.rows(iteration)
        ]
        self._sample = consumed_samples
        age = {"on_policy_age": sum(ages) / len(ages)} if ages else {}
        return {"on_policy_rows": len(ages), **age}

    def _meet(self, iteration: int, first_open: int) -> bool:
        """Let all ranks know what has come; gives whether weights are to be handed over.

        Args:
            iteration: the one that has just been made.
            first_open: the first that may still get rows.
        """
        news: tuple[list[Line], bool] = [], False
        if self._ledger is not None:
            first = max(first_open, self._may_have_run + 1)
            lines = [line for made in self._new_rounds() for line in self._enter(made, first)]
            news = [*lines, *self._ledger.reach(iteration + 1)], self._is_due(iteration)
        lines, is_due = self._tell(news)
        self.schedule.take(lines)
        return is_due

    def _new_rounds(self) -> Iterator[Round]:
        return self._exchange.finished(self.schedule.num_rounds)

    def _enter(self, made: Round, first: int) -> list[Line]:
        assert self._ledger is not None
        plan = self._plan
        ages = made.iteration, plan.max_age
        return self._ledger.enter(made.num_rows, *ages, first, plan.last_iteration, plan.most)

    def _is_due(self, iteration: int) -> bool:
        """Whether the worker waits for weights, and these are new enough."""
        every = self._plan.every
        if every is None or iteration < self._handed_over + every:
            return False
        wanted = self._exchange.wanted()
        return wanted is not None and wanted < iteration

    def _tell(self, news: tuple[list[Line], bool]) -> tuple[list[Line], bool]:
        """What rank 0 says."""
        said = [news]
        dist.broadcast_object_list(said, src=0, group=self._group)
        return said[0]


def save_weights(folder: Path, iteration: int, model: Sequence[torch.nn.Module]) -> None:
    """Save a running training's weights, by Megatron's own way, without what else it would save.

    Every rank calls this.  Weights of earlier iterations go.
    """
    from megatron.training import get_args
    from megatron.training.checkpointing import save_checkpoint

    if dist.get_rank() == 0:
        rmtree(folder / iteration_name(iteration), ignore_errors=True)  # of a run that was killed
    dist.barrier()
    args = get_args()
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
        for old in folder.glob("iter_*"):
            if old.name != iteration_name(iteration):
                rmtree(old, ignore_errors=True)
