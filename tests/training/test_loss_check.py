"""Losses that are no numbers, found once a step."""

from types import SimpleNamespace

import pytest
import torch

from megatron_dasd.errors import UserError
from megatron_dasd.training import loss_check
from megatron_dasd.training.loss_check import LossCheck


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> LossCheck:
    """Of steps of three rows."""
    monkeypatch.setattr(loss_check, "get_num_microbatches", lambda: 3)
    monkeypatch.setattr(loss_check, "get_args", lambda: SimpleNamespace(curr_iteration=6))
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 5)
    return LossCheck()


def rows(*losses: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.tensor(x), torch.tensor([10 + i])) for i, x in enumerate(losses)]


def test_a_step_is_checked_at_its_last_row(
    check: LossCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    finite = torch.isfinite
    monkeypatch.setattr(torch, "isfinite", lambda x: asked.append(len(x)) or finite(x))
    for loss, row in rows(1.0, 2.0, 3.0) + rows(1.0, 2.0):
        check.add(loss, row)
    assert asked == [3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_the_row_is_named(check: LossCheck, bad: float) -> None:
    first, second, third = rows(1.0, bad, 2.0)
    check.add(*first)
    check.add(*second)
    told = rf"^iteration 7, rank 5: the loss of row 11 is {bad}; lower the lr, or look at "
    with pytest.raises(UserError, match=told):
        check.add(*third)
