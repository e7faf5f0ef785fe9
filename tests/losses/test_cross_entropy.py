import pytest
import torch
from torch import Tensor

from megatron_dasd.losses.cross_entropy import token_shares, weighted_loss

WEIGHTS = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 0.0])
POSITIONS = torch.tensor([0, 1, 2, 0, 1, 2, 3, 0])


def test_per_token_every_weight_is_a_factor() -> None:
    factors, counts = token_shares(WEIGHTS, POSITIONS, "token")
    assert factors.tolist() == WEIGHTS.tolist()
    assert counts.tolist() == [0, 1, 1, 0, 1, 1, 1, 0]
    assert counts.dtype == torch.int32


def test_per_sequence_divides_by_its_loss_tokens_and_counts_it_once() -> None:
    factors, counts = token_shares(WEIGHTS, POSITIONS, "sequence")
    expected = [0, 1 / 2, 1 / 2, 0, 0.5 / 3, 1 / 3, 1 / 3, 0]
    assert factors.tolist() == pytest.approx(expected)
    assert counts.tolist() == [0, 1, 0, 0, 1, 0, 0, 0]


def test_a_sequence_without_loss_tokens_counts_for_nothing() -> None:
    weights = torch.tensor([0.0, 0.0, 1.0, 0.0])
    factors, counts = token_shares(weights, torch.tensor([0, 1, 0, 0]), "sequence")
    assert factors.tolist() == [0, 0, 1, 0]
    assert counts.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("normalisation", ["token", "sequence"])
def test_a_row_divided_over_ranks_counts_as_one(normalisation: str) -> None:
    losses = torch.arange(8.0)
    factors, counts = token_shares(WEIGHTS, POSITIONS, normalisation)  # type: ignore[arg-type]
    whole = weighted_loss(factors, counts, losses)
    parts = [weighted_loss(factors[i::2], counts[i::2], losses[i::2]) for i in range(2)]
    assert sum(part[0] for part in parts).item() == pytest.approx(whole[0].item())  # type: ignore[union-attr]
    assert sum(part[1] for part in parts) == whole[1]


def loss(weights: Tensor, losses: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    shares = token_shares(weights, torch.arange(weights.numel()), "token")
    return weighted_loss(*shares, losses)


def test_sums_the_counted_tokens() -> None:
    total, count, logged = loss(
        torch.tensor([1.0, 0.0, 0.5, 1.0]), torch.tensor([[0.5, 9.0, 0.25, 2.0]])
    )
    assert total.item() == 2.625
    assert count.item() == 3
    assert count.dtype == torch.int32
    assert logged["lm loss"].tolist() == [2.625, 3.0]


def test_gradient_is_the_weight() -> None:
    losses = torch.tensor([[0.5, 9.0, 0.25]], requires_grad=True)
    loss(torch.tensor([1.0, 0.0, 0.25]), losses)[0].backward()
    assert losses.grad is not None
    assert losses.grad.tolist() == [[1.0, 0.0, 0.25]]


def test_an_infinite_masked_loss_does_not_count() -> None:
    losses = torch.tensor([[1.0, float("inf")]], requires_grad=True)
    total, _, _ = loss(torch.tensor([1.0, 0.0]), losses)
    total.backward()
    assert total.item() == 1.0
    assert losses.grad is not None
    assert losses.grad.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("normalisation", ["token", "sequence"])
def test_a_fully_masked_row_gives_zero_of_zero(normalisation: str) -> None:
    shares = token_shares(
        torch.zeros(3),
        torch.tensor([0, 1, 0]),
        normalisation,  # type: ignore[arg-type]
    )
    losses = torch.ones(1, 3, requires_grad=True)
    total, count, _ = weighted_loss(*shares, losses)
    total.backward()
    assert (total.item(), count.item()) == (0.0, 0)
    assert losses.grad is not None
    assert losses.grad.tolist() == [[0.0, 0.0, 0.0]]
