"""The losses as they are written down: whole logits, float64, autograd."""

import torch
from torch import Tensor


def logprobs_and_rest(logits: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor]:
    """ln p of the chosen ids ``[T, K]`` (-1: -inf), and of all others ``[T]``."""
    every = logits.log_softmax(-1)
    chosen = torch.zeros_like(logits, dtype=torch.bool)
    for column in token_ids.t():
        rows = (column >= 0).nonzero().flatten()
        chosen[rows, column[rows]] = True
    picked = every.gather(1, token_ids.clamp(min=0)).where(token_ids >= 0, float("-inf"))
    return picked, every.masked_fill(chosen, float("-inf")).logsumexp(-1)


def problem(
    num_tokens: int, hidden_size: int, vocab_size: int, num_chosen: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, weights (float64) and distinct ids, some of them -1."""
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_tokens, hidden_size, generator=random, dtype=torch.float64)
    weight = torch.randn(vocab_size, hidden_size, generator=random, dtype=torch.float64)
    ids = torch.rand(num_tokens, vocab_size, generator=random).argsort(1)[:, :num_chosen].clone()
    if num_chosen > 1:
        ids[::3, -1] = -1
    return hidden, 0.5 * weight, ids


def teacher(num_tokens: int, hidden_size: int, vocab_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids and log-probs ``[T, 6]`` of a teacher's likeliest tokens, and labels ``[T]``.

    Every third position knows 5 of them, every other label is among them.
    """
    random = torch.Generator().manual_seed(7)
    logits = 2 * torch.randn(num_tokens, vocab_size, generator=random, dtype=torch.float64)
    logprobs, ids = logits.log_softmax(-1).topk(6)
    logprobs[::3, -1], ids[::3, -1] = float("-inf"), -1
    labels = torch.randint(vocab_size, (num_tokens,), generator=random)
    labels[::2] = ids[::2, 1]
    return ids, logprobs, labels


def buckets(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probs of the chosen ids and of any other, ``[T, K + 1]``."""
    chosen, rest = logprobs_and_rest(logits, ids)
    return torch.cat([chosen, rest.unsqueeze(1)], dim=1)


def weighted(logprobs: Tensor, rest: Tensor, seed: int = 1) -> Tensor:
    """A number that depends on every output, those of the rest and of the chosen differently."""
    random = torch.Generator().manual_seed(seed)
    factors = torch.randn(logprobs.shape, generator=random, dtype=torch.float64)
    others = torch.randn(rest.shape, generator=random, dtype=torch.float64)
    finite = logprobs.masked_fill(logprobs == float("-inf"), 0.0)
    return (factors.to(logprobs) * finite).sum() + (others.to(rest) * rest).sum()
