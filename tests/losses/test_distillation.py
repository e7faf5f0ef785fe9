"""Divergences through Megatron's output layer, on real processes, against whole logits."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from megatron_dasd.config.choices import Divergence
from megatron_dasd.device.launch import launch
from tests.losses.dense import buckets, problem, teacher, weighted
from tests.losses.programs import SHAPE, result

BETA = 0.3


def dense_divergence(name: Divergence, q: Tensor, p: Tensor) -> Tensor:
    """As it is written down, of probabilities."""

    def kl(left: Tensor, right: Tensor) -> Tensor:
        return (left * (left / right).log()).where(left > 0, 0.0).sum(-1)

    mixture = BETA * q + (1 - BETA) * p
    return {
        "forward_kl": lambda: kl(q, p),
        "reverse_kl": lambda: kl(p, q),
        "jensen_shannon": lambda: BETA * kl(q, mixture) + (1 - BETA) * kl(p, mixture),
        "skew_kl": lambda: kl(q, mixture),
        "total_variation": lambda: (q - p).abs().sum(-1) / 2,
    }[name]()


@pytest.mark.parametrize("name", get_args(Divergence))
@pytest.mark.parametrize(("num_ranks", "sequence_parallel"), [(1, False), (2, True)])
def test_equals_whole_logits_in_float64(
    name: Divergence, num_ranks: int, sequence_parallel: bool, tmp_path: Path
) -> None:
    payload = {
        "divergence": name,
        "sequence_parallel": sequence_parallel,
        "tied": sequence_parallel,
        "num_chosen": 1,
        "out": str(tmp_path / "out.pt"),
    }
    launch("tests.losses.programs", payload, num_ranks, tmp_path)
    actual = result(tmp_path / "out.pt")
    hidden, weight, _ = problem(*SHAPE, 1)
    hidden.requires_grad_()
    weight.requires_grad_()
    ids, top, labels = teacher(*SHAPE)
    logits = hidden @ weight.t()
    cross_entropy = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    known = top.exp()
    q = torch.cat([known, 1 - known.sum(1, keepdim=True)], dim=1)
    p = buckets(logits, ids).exp().where(q > 0, 1.0)  # 1: finite where q / p is not asked for
    there = torch.cat([ids >= 0, torch.ones_like(ids[:, :1], dtype=torch.bool)], dim=1)
    per_row = [
        dense_divergence(name, q[row][there[row]], p[row][there[row]]) for row in range(len(ids))
    ]
    distances = cross_entropy.unsqueeze(1), torch.stack(per_row)
    weighted(*distances).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    expected = {
        "logprobs": distances[0],
        "rest": distances[1],
        "hidden": hidden.grad.view_as(actual["hidden"]),
        "weight": torch.cat(
            [weight.grad, weight.new_zeros(len(actual["weight"]) - SHAPE[2], SHAPE[1])]
        ),
    }
    for key, wanted in expected.items():
        torch.testing.assert_close(
            actual[key].double(), wanted.detach(), rtol=1e-5, atol=1e-5, msg=f"{name} {key}"
        )
