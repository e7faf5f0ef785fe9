"""One forward step, as Megatron's schedules call it."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from megatron.training import get_args
from torch import Tensor

from megatron_dasd.data.groups import Names
from megatron_dasd.data.meta import CLASS_NAMES, SENTENCE_CLASSES, WRITER_NAMES, WRITERS
from megatron_dasd.data.teacher_top import IDS, LOGPROBS
from megatron_dasd.losses.cross_entropy import (
    class_losses,
    divided_loss,
    token_shares,
    weighted_loss,
)
from megatron_dasd.losses.distillation import TeacherTop, distillation_loss, token_distances
from megatron_dasd.losses.output_layer import summed_loss, token_losses
from megatron_dasd.models.packed import ROW_NUMBER, Batch, forward, own_share
from megatron_dasd.training.job import LossSettings
from megatron_dasd.training.loss_check import LossCheck

type Output = Tensor | tuple[Tensor, Tensor]
"""Of the last pipeline stage: token losses, or what an output processor makes of them."""
type LossParts = tuple[Tensor, Tensor, dict[str, Tensor]]
"""Sum of the loss, what it is divided by, and what is logged."""


def forward_step(
    data_iterator: Iterator[Batch],
    model: torch.nn.Module,
    return_schedule_plan: bool = False,
    *,
    groups: Names,
    settings: LossSettings,
    check: LossCheck,
) -> tuple[Tensor, Callable[[Output], LossParts]]:
    """Megatron's ``forward_step_func``: the stage's output, and the loss function for it.

    Args:
        data_iterator: batches of one row.
        model: this rank's pipeline stage.
        return_schedule_plan: Megatron passes it; not used.
        groups: names of the groups of documents whose losses are logged.
        settings: how the loss is taken.
        check: gets every row's loss.
    """
    batch = next(data_iterator)
    shares = token_shares(
        batch["loss_mask"].flatten(), batch["position_ids"].flatten(), settings.normalise_by
    )
    # Shares first, of the whole row: a sequence divided over ranks counts once.
    batch = own_share(batch | {"factors": shares[0][None], "counts": shares[1][None]})
    shares = batch["factors"], batch["counts"]
    by_class = partial(
        _with_classes,
        factors=shares[0],
        classes=_classes(batch, groups),
        check=partial(check.add, row=batch[ROW_NUMBER]),
    )
    sizes = {"vocab_size": get_args().vocab_size, "slice_mib": settings.slice_mib}
    if IDS in batch:
        processor = partial(
            token_distances,
            **sizes,
            name=settings.distillation.divergence,
            beta=settings.distillation.beta,
            teacher=TeacherTop(batch[IDS], batch[LOGPROBS]),
        )
        loss = partial(distillation_loss, *shares, settings.distillation.weight)
        return forward(model, batch, output_processor=processor), partial(by_class, loss)
    if settings.loss_gradients == "forward":
        summing = partial(summed_loss, **sizes, factors=shares[0])
        known = partial(_of_known_sum, shares[1])
        return forward(model, batch, output_processor=summing), partial(by_class, known)
    whole = partial(token_losses, **sizes) if settings.chunked_loss else None
    loss = partial(weighted_loss, *shares)
    return forward(model, batch, output_processor=whole), partial(by_class, loss)


def _of_known_sum(counts: Tensor, output: tuple[Tensor, Tensor]) -> LossParts:
    return divided_loss(counts, output[0])


def _with_classes(
    loss: Callable[[Any], LossParts],
    output: Output,
    *,
    factors: Tensor,
    classes: Sequence[tuple[Tensor, Sequence[str]]],
    check: Callable[[Tensor], None],
) -> LossParts:
    """A loss that logs the cross-entropy of each class too, and is checked."""
    total, divisor, logged = loss(output)
    check(total)
    if isinstance(output, tuple):
        token_loss = output[1]
    else:
        token_loss = output[0] if output.dim() > factors.dim() else output
    for numbers, names in classes:
        logged |= class_losses(factors, token_loss, numbers, names)
    return total, divisor, logged


def _classes(batch: Batch, groups: Names) -> list[tuple[Tensor, Sequence[str]]]:
    """Classes that tokens belong to (by document, sentence and writer), and their names."""
    found: list[tuple[Tensor, Sequence[str]]] = [
        (batch[kind], [f"{kind} {name}" for name in names]) for kind, names in groups.items()
    ]
    if SENTENCE_CLASSES in batch:
        found.append((batch[SENTENCE_CLASSES], CLASS_NAMES))
    if WRITERS in batch:
        found.append((batch[WRITERS], WRITER_NAMES))
    return found
