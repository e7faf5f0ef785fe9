"""Megatron's output layer with the losses in its place, on real tensor-parallel processes."""

from pathlib import Path

import pytest
import torch

from megatron_dasd.device.launch import launch
from tests.losses.dense import logprobs_and_rest, problem, weighted
from tests.losses.programs import FACTORS, SHAPE, result

LAYOUTS = {
    "one rank": {"num_ranks": 1, "sequence_parallel": False, "tied": False},
    "tp2": {"num_ranks": 2, "sequence_parallel": False, "tied": False},
    "tp2 sp tied": {"num_ranks": 2, "sequence_parallel": True, "tied": True},
    # of 32 rows a rank, the last rank's are padding but for 5; slices of 4 tokens or 8 columns
    "tp4 sp": {"num_ranks": 4, "sequence_parallel": True, "tied": False, "slice_bytes": 512},
    # of 16 rows a rank, all of the last one's are padding
    "tp8": {"num_ranks": 8, "sequence_parallel": False, "tied": True},
}


@pytest.mark.parametrize("num_chosen", [1, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_whole_logits_in_float64(layout: str, num_chosen: int, tmp_path: Path) -> None:
    payload = {**LAYOUTS[layout], "num_chosen": num_chosen, "out": str(tmp_path / "out.pt")}
    launch("tests.losses.programs", payload, int(payload["num_ranks"]), tmp_path)
    actual = result(tmp_path / "out.pt")
    hidden, weight, ids = problem(*SHAPE, num_chosen)
    hidden.requires_grad_()
    weight.requires_grad_()
    logprobs, rest = logprobs_and_rest(hidden @ weight.t(), ids)
    weighted(logprobs, rest if num_chosen > 1 else torch.zeros_like(rest)).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    expected = {
        "logprobs": logprobs,
        "rest": rest if num_chosen > 1 else torch.zeros_like(rest),
        "hidden": hidden.grad.view_as(actual["hidden"]),
        "weight": torch.cat(
            [weight.grad, weight.new_zeros(len(actual["weight"]) - SHAPE[2], SHAPE[1])]
        ),
    }
    for name, wanted in expected.items():
        torch.testing.assert_close(
            actual[name].double(), wanted.detach(), rtol=1e-5, atol=1e-5, msg=name
        )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sum_with_its_gradients_made_forwards(layout: str, tmp_path: Path) -> None:
    payload = {**LAYOUTS[layout], "num_chosen": 1, "summed": True, "out": str(tmp_path / "out.pt")}
    launch("tests.losses.programs", payload, int(payload["num_ranks"]), tmp_path)
    actual = result(tmp_path / "out.pt")
    hidden, weight, ids = problem(*SHAPE, 1)
    hidden.requires_grad_()
    weight.requires_grad_()
    losses = -logprobs_and_rest(hidden @ weight.t(), ids)[0].flatten()
    total = (FACTORS * losses).sum()
    total.backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    padding = weight.new_zeros(len(actual["weight"]) - SHAPE[2], SHAPE[1])
    expected = {
        "logprobs": total,
        "rest": losses,
        "hidden": hidden.grad.view_as(actual["hidden"]),
        "weight": torch.cat([weight.grad, padding]),
    }
    for name, wanted in expected.items():
        torch.testing.assert_close(
            actual[name].double(), wanted.detach(), rtol=1e-5, atol=1e-5, msg=name
        )
