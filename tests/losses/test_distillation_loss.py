"""Cross-entropy and divergence mixed, worked out by hand."""

import pytest
import torch

from megatron_dasd.losses.distillation import distillation_loss

# cross-entropy, divergence, the teacher's known mass, the student's there
DISTANCES = torch.tensor(
    [[[1.0, 2.0, 4.0, 8.0]], [[0.5, 0.0, 0.25, 0.5]], [[0.75, 0.0, 0.5, 1.0]], [[0.5, 0, 0.25, 1]]]
)
FACTORS = torch.tensor([[1.0, 1.0, 2.0, 0.0]])
COUNTS = torch.tensor([[1, 1, 1, 0]], dtype=torch.int32)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_divergence_has_its_weight_where_the_teacher_is_known(weight: float) -> None:
    total, divisor, logged = distillation_loss(FACTORS, COUNTS, weight, DISTANCES)
    first = (1 - weight) * 1.0 + weight * 0.5
    second = 2.0  # unknown: cross-entropy alone
    third = 2 * ((1 - weight) * 4.0 + weight * 0.25)
    assert total.item() == pytest.approx(first + second + third)
    assert divisor.item() == 3
    assert logged["lm loss"].tolist() == [1.0 + 2.0 + 2 * 4.0, 3.0]
    # of the two tokens of which it is known
    assert logged["distillation loss"].tolist() == [0.5 + 2 * 0.25, 2.0]
    assert logged["teacher mass"].tolist() == [0.75 + 2 * 0.5, 2.0]
    assert logged["student mass"].tolist() == [0.5 + 2 * 0.25, 2.0]


def test_a_row_of_which_nothing_is_known_has_its_cross_entropy() -> None:
    distances = DISTANCES.clone()
    distances[1:] = 0
    total, _, logged = distillation_loss(FACTORS, COUNTS, 1.0, distances)
    assert total.item() == 1.0 + 2.0 + 2 * 4.0
    assert logged["distillation loss"].tolist() == [0.0, 0.0]


def test_gradients_are_of_what_counts() -> None:
    distances = DISTANCES.clone().requires_grad_()
    distillation_loss(FACTORS, COUNTS, 0.25, distances)[0].backward()
    assert distances.grad is not None
    assert distances.grad[0].tolist() == [[0.75, 1.0, 1.5, 0.0]]
    assert distances.grad[1].tolist() == [[0.25, 0.0, 0.5, 0.0]]
