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


def weighted(logprobs: Tensor, rest: Tensor, seed: int = 1) -> Tensor:
    """A number that depends on every output, those of the rest and of the chosen differently."""
    random = torch.Generator().manual_seed(seed)
    factors = torch.randn(logprobs.shape, generator=random, dtype=torch.float64)
    others = torch.randn(rest.shape, generator=random, dtype=torch.float64)
    finite = logprobs.masked_fill(logprobs == float("-inf"), 0.0)
    return (factors.to(logprobs) * finite).sum() + (others.to(rest) * rest).sum()
