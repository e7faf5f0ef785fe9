"""Metrics of training: each is one function of a step, registered with its unit and description.

To add one, write a function of :class:`Step` under ``@metric`` in this file.  It then stands in
``metrics.jsonl``, in TensorBoard and in W&B.  The rank that logs computes it, from facts that every
rank knows, so no metric needs a reduction over ranks of its own.

What Megatron computes (losses, gradient norm, learning rate) is logged beside them, by
``training.megatron_log``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from megatron_dasd.arrays import Ints
from megatron_dasd.models.architecture import Architecture
from megatron_dasd.models.flops import products_of

type Rounding = Mapping[str, Mapping[str, float]]
"""Shares and noise by kind of tensor, as :meth:`precision.numerics.Numerics.take` gives them."""
type Value = float | int | Rounding


@dataclass(frozen=True, kw_only=True)
class Step:
    """What metrics are computed from: the rows trained on since the last logged step."""

    seconds: float
    """Wall time."""
    lengths: Ints
    """[documents] tokens of each."""
    num_positions: int
    """Positions of all rows, padding included."""
    architecture: Architecture
    num_ranks: int
    peak_flops: float | None = None
    """Dense bfloat16 operations/s of a rank's GPU; None: not known, or no GPU."""
    peak_bytes: int | None = None
    """Most memory that torch has allocated on this rank's GPU so far; None: no GPU."""
    rounding: Rounding | None = None
    """What emulated FP8 did to the numbers; None: nothing was quantised."""
    on_policy_ages: Sequence[int] | None = None
    """For each row of the rollout worker, the iterations between the weights that it was made with
    and those that it was trained with; None: there is no worker."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the documents."""
        return int(self.lengths.sum())

    @cached_property
    def flops_per_second(self) -> float:
        """Model operations/s of a rank; see ``models.flops``."""
        return training_flops(self.architecture, self.lengths) / self.seconds / self.num_ranks


@dataclass(frozen=True)
class Metric:
    """A registered metric."""

    name: str
    unit: str
    description: str
    compute: Callable[[Step], Value | None]
    """None: the step has none of it, and the metric is left out."""


METRICS: dict[str, Metric] = {}
"""All metrics by name, in the order in which they are logged."""


def metric(
    unit: str, description: str
) -> Callable[[Callable[[Step], Value | None]], Callable[[Step], Value | None]]:
    """Register a function of a step as a metric, under the function's name.

    Raises:
        ValueError: the name is taken.
    """

    def register(compute: Callable[[Step], Value | None]) -> Callable[[Step], Value | None]:
        name = compute.__name__
        if name in METRICS:
            raise ValueError(f"there is a metric {name} already")
        METRICS[name] = Metric(name, unit, description, compute)
        return compute

    return register


def computed(step: Step) -> dict[str, Value]:
    """The values of all metrics that a step has, by name."""
    values = {name: metric.compute(step) for name, metric in METRICS.items()}
    return {name: value for name, value in values.items() if value is not None}


def training_flops(architecture: Architecture, lengths: Ints) -> float:
    """Operations of training on documents of these lengths; see ``models.flops``."""
    tokens = lengths.astype(np.float64)
    total, squared = float(tokens.sum()), float(np.square(tokens).sum())
    return products_of(architecture).training_flops(total, squared)


@metric("tokens/s", "tokens of documents, over all ranks")
def tokens_per_second(step: Step) -> float:
    """Tokens of documents a second."""
    return round(step.num_tokens / step.seconds, 1)


@metric("share", "of the step's positions, those that align documents and fill up rows")
def padding_share(step: Step) -> float:
    """Share of the positions that hold no document's token."""
    return 1 - step.num_tokens / step.num_positions


@metric("positions", "with experts: positions of padding times experts per token, of one layer")
def padding_dispatched(step: Step) -> int | None:
    """Padding that is dispatched to experts: no loss sees it, its products are made."""
    experts = step.architecture.experts
    if experts is None:
        return None
    return (step.num_positions - step.num_tokens) * experts.experts_per_token


@metric("1e12 operations/s", "the model's operations by the documents' real lengths, per rank")
def tflops_per_rank(step: Step) -> float:
    """Model operations of a rank."""
    return step.flops_per_second / 1e12


@metric("share", "`tflops_per_rank` over the GPU's dense bfloat16 peak, where that is known")
def mfu(step: Step) -> float | None:
    """Model FLOP/s utilisation."""
    return step.flops_per_second / step.peak_flops if step.peak_flops else None


@metric("GiB", "most memory that torch has allocated so far, on the GPU of the rank that logs")
def peak_memory_gib(step: Step) -> float | None:
    """Peak of allocated memory."""
    return None if step.peak_bytes is None else round(step.peak_bytes / 2**30, 3)


@metric("shares", "emulated FP8: numbers saturated and flushed to 0, noise over signal")
def fp8(step: Step) -> Rounding | None:
    """What rounding to FP8 did."""
    return step.rounding


@metric("rows", "rows of the rollout worker in the step")
def on_policy_rows(step: Step) -> int | None:
    """Rows of the rollout worker."""
    return None if step.on_policy_ages is None else len(step.on_policy_ages)


@metric("iterations", "mean age of those rows' weights")
def on_policy_age(step: Step) -> float | None:
    """Mean age of the worker's rows."""
    ages = step.on_policy_ages
    return sum(ages) / len(ages) if ages else None
