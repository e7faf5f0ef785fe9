import torch

from megatron_dasd.losses.cross_entropy import masked_token_loss


def test_sums_the_counted_tokens() -> None:
    total, count, logged = masked_token_loss(
        torch.tensor([[1.0, 0.0, 1.0, 1.0]]), torch.tensor([[0.5, 9.0, 0.25, 2.0]])
    )
    assert total.item() == 2.75
    assert count.item() == 3
    assert count.dtype == torch.int32
    assert logged["lm loss"].tolist() == [2.75, 3.0]


def test_gradient_is_one_on_counted_tokens_and_zero_elsewhere() -> None:
    losses = torch.tensor([[0.5, 9.0, 0.25]], requires_grad=True)
    masked_token_loss(torch.tensor([[1.0, 0.0, 1.0]]), losses)[0].backward()
    assert losses.grad is not None
    assert losses.grad.tolist() == [[1.0, 0.0, 1.0]]


def test_an_infinite_masked_loss_does_not_count() -> None:
    losses = torch.tensor([[1.0, float("inf")]], requires_grad=True)
    total, _, _ = masked_token_loss(torch.tensor([[1.0, 0.0]]), losses)
    total.backward()
    assert total.item() == 1.0
    assert losses.grad is not None
    assert losses.grad.tolist() == [[1.0, 0.0]]


def test_a_fully_masked_row_gives_zero_of_zero() -> None:
    total, count, _ = masked_token_loss(torch.zeros(1, 3), torch.ones(1, 3))
    assert (total.item(), count.item()) == (0.0, 0)
