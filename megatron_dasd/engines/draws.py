"""Drawing the next token of many sequences at once, each with its own settings and its own luck.

Shape suffixes: B sequences, V entries of the vocabulary.
"""

import torch
from torch import Tensor


def draw_tokens(
    logits_BV: Tensor, temperatures_B: Tensor, top_ps_B: Tensor, uniforms_B: Tensor
) -> Tensor:
    """Draw one token a row, by the inverse of the row's cumulative distribution.

    A row's draw depends on nothing but its logits, its settings and its one uniform number, so the
    same request gives the same text beside any others.

    Args:
        logits_BV: float32.
        temperatures_B: 0 takes the likeliest token.
        top_ps_B: draws come from the smallest set of likeliest tokens that holds this probability.
        uniforms_B: float64 in [0, 1).

    Returns:
        Token ids, ``[B]``.
    """
    greedy_B = temperatures_B == 0
    scale_B = torch.where(greedy_B, 1.0, temperatures_B)
    probs_BV = torch.softmax(logits_BV / scale_B[:, None], dim=-1)
    if bool((top_ps_B < 1).any()):
        probs_BV = _keep_top_p(probs_BV, top_ps_B)
    # double: 32-bit sums over a large vocabulary would give the rarest tokens no share
    cumulative_BV = probs_BV.double().cumsum(dim=-1)
    targets_B = uniforms_B * cumulative_BV[:, -1]
    drawn_B = torch.searchsorted(cumulative_BV, targets_B[:, None], right=True)[:, 0]
    return torch.where(greedy_B, logits_BV.argmax(dim=-1), drawn_B)


def token_logprobs(logits_BV: Tensor, token_ids_B: Tensor) -> Tensor:
    """ln of the untempered probability of each row's token over the whole vocabulary, ``[B]``."""
    chosen_B = logits_BV.gather(1, token_ids_B[:, None])[:, 0]
    return chosen_B - logits_BV.logsumexp(dim=-1)


def _keep_top_p(probs_BV: Tensor, top_ps_B: Tensor) -> Tensor:
    """Zero what lies outside each row's smallest likeliest set of probability ``top_p``."""
    sorted_BV, order_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
    before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
    kept_BV = torch.where(before_BV < top_ps_B[:, None], sorted_BV, 0.0)
    return torch.zeros_like(probs_BV).scatter(1, order_BV, kept_BV)
