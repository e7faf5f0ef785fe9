import torch

from megatron_dasd.models.provider import hide_padding


def test_only_the_columns_past_the_vocabulary_are_hidden() -> None:
    # five tokens, padded to eight, on two ranks of four columns
    logits = torch.zeros(1, 4)
    assert hide_padding(logits, vocab_size=5, rank=0) is logits
    hidden = hide_padding(logits, vocab_size=5, rank=1)
    assert hidden.tolist() == [[0.0, float("-inf"), float("-inf"), float("-inf")]]


def test_a_rank_of_padding_alone() -> None:
    assert hide_padding(torch.zeros(1, 2), vocab_size=4, rank=2).tolist() == [[float("-inf")] * 2]


def test_no_gradient_reaches_the_padding() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    torch.logsumexp(hide_padding(logits, vocab_size=2, rank=0), -1).backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] == 0.0
    torch.testing.assert_close(logits.grad[0, :2], torch.tensor([1.0, 2.0]).softmax(0))
