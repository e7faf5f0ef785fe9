"""The weighted loss with its gradients made on the way forwards, against whole logits."""

import math

import pytest
import torch
from torch import Tensor

from megatron_dasd.losses import linear_loss as linear_loss_module
from megatron_dasd.losses.linear_logprobs import VocabShard
from megatron_dasd.losses.linear_loss import linear_loss
from tests.losses.dense import logprobs_and_rest, problem

T, H, V = 37, 16, 101
FACTORS = torch.arange(T, dtype=torch.float64).remainder(4) / 2


def expected(upstream: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum, losses and the gradients of hidden states and weight, float64."""
    hidden, weight, ids = problem(T, H, V, 1)
    hidden.requires_grad_()
    weight.requires_grad_()
    losses = -logprobs_and_rest(hidden @ weight.t(), ids)[0].flatten()
    total = (FACTORS * losses).sum()
    (upstream * total).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    return total.detach(), losses.detach(), hidden.grad, weight.grad


def close(actual: Tensor | None, wanted: Tensor, tolerance: float = 1e-5) -> None:
    assert actual is not None
    torch.testing.assert_close(actual.double(), wanted, rtol=tolerance, atol=tolerance)


def test_worked_out_by_hand() -> None:
    # logits ln 1, ln 2, ln 5: probabilities 1/8, 2/8, 5/8; the second token does not count
    hidden = torch.tensor([[1.0], [1.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [2.0], [5.0]]).log().requires_grad_()
    factors = torch.tensor([2.0, 0.0])
    total, losses = linear_loss(hidden, weight, torch.tensor([1, 0]), factors, VocabShard(0, 3))
    assert losses.tolist() == pytest.approx([math.log(4), math.log(8)])
    assert not losses.requires_grad
    assert total.item() == pytest.approx(2 * math.log(4))
    (3 * total).backward()
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == pytest.approx([6 / 8, -6 * 3 / 4, 6 * 5 / 8])
    assert hidden.grad is not None
    of_first = 6 * (5 / 8 * math.log(5) - 3 / 4 * math.log(2))
    assert hidden.grad.flatten().tolist() == pytest.approx([of_first, 0.0])


@pytest.mark.parametrize("size", [1, 5, T, 500])
def test_equals_whole_logits_in_float64(size: int) -> None:
    shard = VocabShard(0, V, None, slice_bytes=4 * size * V)
    hidden, weight, ids = problem(T, H, V, 1)
    own = [x.float().requires_grad_() for x in (hidden, weight)]
    total, losses = linear_loss(*own, ids.flatten(), FACTORS.float(), shard)
    (0.25 * total).backward()
    for actual, wanted in zip(
        (total, losses, own[0].grad, own[1].grad), expected(0.25), strict=True
    ):
        close(actual, wanted)


def test_padding_takes_no_part() -> None:
    hidden, weight, ids = problem(T, H, V, 1)
    padded = torch.cat([weight, torch.full((27, H), 100.0, dtype=weight.dtype)]).requires_grad_()
    total, _ = linear_loss(hidden, padded, ids.flatten(), FACTORS, VocabShard(0, V))
    total.backward()
    close(total, expected()[0], 1e-12)
    assert padded.grad is not None
    assert padded.grad[V:].eq(0).all()
    close(padded.grad[:V], expected()[3], 1e-12)


def test_bfloat16_loses_no_more_than_its_products() -> None:
    hidden, weight, ids = problem(T, H, V, 1)
    own = [x.bfloat16().requires_grad_() for x in (hidden, weight)]
    total, losses = linear_loss(*own, ids.flatten(), FACTORS.float(), VocabShard(0, V))
    assert total.dtype == losses.dtype == torch.float32
    total.backward()
    close(losses, expected()[1], 5e-2)
    for actual, wanted in zip(own, expected()[2:], strict=True):
        assert actual.grad is not None
        assert actual.grad.dtype == torch.bfloat16
        assert (actual.grad.double() - wanted).norm() < 0.02 * wanted.norm()


def test_a_loss_that_is_infinite_and_does_not_count() -> None:
    hidden = torch.tensor([[1.0], [1.0]], requires_grad=True)
    weight = torch.tensor([[0.0], [float("-inf")]])
    factors = torch.tensor([1.0, 0.0])
    total, losses = linear_loss(hidden, weight, torch.tensor([0, 1]), factors, VocabShard(0, 2))
    assert losses.tolist() == [0.0, float("inf")]
    assert total.item() == 0.0


def test_nothing_is_kept_where_no_gradient_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a gradient was made")

    monkeypatch.setattr(linear_loss_module, "add_product", fail)
    hidden, weight, ids = problem(T, H, V, 1)
    with torch.no_grad():
        total, _ = linear_loss(
            hidden, weight.requires_grad_(), ids.flatten(), FACTORS, VocabShard(0, V)
        )
    close(total, expected()[0], 1e-12)


def test_a_second_backward_pass_is_refused() -> None:
    hidden, weight, ids = problem(T, H, V, 1)
    hidden.requires_grad_()
    total, _ = linear_loss(hidden, weight, ids.flatten(), FACTORS, VocabShard(0, V))
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="no second backward pass"):
        total.backward()


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    hidden, weight, ids = problem(T, H, V, 1)
    weight.requires_grad_()
    linear_loss(hidden, weight, ids.flatten(), FACTORS, VocabShard(0, V))[0].backward()
    assert hidden.grad is None
    close(weight.grad, expected()[3], 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_tied", [False, True])
def test_the_weights_gradient_goes_into_main_grad(dtype: torch.dtype, is_tied: bool) -> None:
    hidden, weight, ids = problem(T, H, V, 1)
    own = torch.nn.Parameter(weight.to(dtype))
    own.main_grad = torch.ones(V, H)  # type: ignore[attr-defined]
    own.grad_added_to_main_grad = False  # type: ignore[attr-defined]
    own.zero_out_wgrad = is_tied  # type: ignore[attr-defined]
    total, _ = linear_loss(
        hidden.to(dtype), own, ids.flatten(), FACTORS.float(), VocabShard(0, V), into_main_grad=True
    )
    total.backward()
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    close(own.main_grad - 1.0, expected()[3], tolerance)  # type: ignore[attr-defined]
    assert own.grad_added_to_main_grad  # type: ignore[attr-defined]
    assert own.grad is not None
    if is_tied:
        assert own.grad.eq(0).all()
