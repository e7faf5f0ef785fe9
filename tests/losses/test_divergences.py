import math
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from megatron_dasd.config.choices import Divergence
from megatron_dasd.errors import UserError
from megatron_dasd.losses.divergences import MEASURES, divergence, with_tail

TEACHER = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log()
STUDENT = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64).log()
LN2 = math.log(2)


@pytest.mark.parametrize(
    ("name", "beta", "expected"),
    [
        # 1/2 ln 2 - 1/4 ln 2
        ("forward_kl", 0.5, LN2 / 4),
        ("reverse_kl", 0.5, LN2 / 4),
        ("total_variation", 0.5, 0.25),
        # m = 3/8, 3/8, 1/4: both sides 1/2 ln 4/3 + 1/4 ln 2/3
        ("jensen_shannon", 0.5, math.log(4 / 3) / 2 + math.log(2 / 3) / 4),
        # s = 5/16, 7/16, 1/4
        ("skew_kl", 0.25, math.log(8 / 5) / 2 + math.log(4 / 7) / 4),
    ],
)
def test_worked_out_by_hand(name: Divergence, beta: float, expected: float) -> None:
    assert divergence(name, TEACHER, STUDENT, beta).item() == pytest.approx(expected)


def test_a_name_that_nobody_registered_is_refused() -> None:
    with pytest.raises(UserError, match="unknown divergence 'jenson_shannon'; choose one of forw"):
        divergence("jenson_shannon", TEACHER, STUDENT)  # type: ignore[arg-type]


def test_the_documentation_lists_the_divergences() -> None:
    document = (Path(__file__).parents[2] / "docs" / "losses.md").read_text()
    rows = [f"| `{one.name}` | {one.formula} | {one.source} |" for one in MEASURES]
    assert "\n".join(rows).replace("|  |", "| |") in document


@pytest.mark.parametrize("name", get_args(Divergence))
def test_zero_between_equals_and_positive_else(name: Divergence) -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 50, 6, dtype=torch.float64).log_softmax(-1)
    assert divergence(name, teacher, teacher).abs().max() < 1e-15
    assert divergence(name, teacher, student).min() > 0


def test_beta_near_its_ends_is_the_kl_to_one_side() -> None:
    beta = 1e-9
    nearly_forward = divergence("jensen_shannon", TEACHER, STUDENT, beta) / beta
    assert nearly_forward.item() == pytest.approx(LN2 / 4, rel=1e-6)
    assert divergence("skew_kl", TEACHER, STUDENT, beta).item() == pytest.approx(LN2 / 4)


def test_the_tail_has_what_is_left() -> None:
    top = torch.tensor([[0.5, 0.25], [0.5, 0.0]]).log()
    assert with_tail(top).exp().tolist() == [
        pytest.approx([0.5, 0.25, 0.25]),
        pytest.approx([0.5, 0.0, 0.5]),
    ]


def test_known_tokens_that_round_to_more_than_one() -> None:
    probabilities = with_tail(torch.tensor([0.75, 0.2501]).log()).exp()
    assert probabilities.sum().item() == pytest.approx(1.0)
    assert probabilities[2].item() == pytest.approx(1e-7, rel=0.25)


@pytest.mark.parametrize("name", get_args(Divergence))
def test_an_outcome_that_is_not_there_changes_nothing(name: Divergence) -> None:
    def padded(x: Tensor) -> Tensor:
        return torch.cat([x, torch.tensor([float("-inf")], dtype=x.dtype)])

    student = padded(STUDENT).requires_grad_()
    value = divergence(name, padded(TEACHER), student)
    assert value.item() == pytest.approx(divergence(name, TEACHER, STUDENT).item())
    value.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad[3] == 0.0


@pytest.mark.parametrize("name", get_args(Divergence))
def test_a_confident_student_gets_a_finite_gradient(name: Divergence) -> None:
    student = torch.tensor([0.0, -60.0, -90.0], requires_grad=True)
    divergence(name, TEACHER.float(), student).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_merging_tokens_brings_no_two_further_apart() -> None:
    torch.manual_seed(1)
    teacher, student = torch.randn(2, 40, 30, dtype=torch.float64).log_softmax(-1)
    top, ids = teacher.topk(5)
    rest = student.exp().sum(-1, keepdim=True) - student.gather(1, ids).exp().sum(-1, keepdim=True)
    merged = torch.cat([student.gather(1, ids), rest.log()], dim=-1)
    for name in get_args(Divergence):
        whole = divergence(name, teacher, student)
        assert (divergence(name, with_tail(top), merged) <= whole + 1e-12).all(), name


def test_the_forward_kl_is_that_of_megatrons_cached_logits() -> None:
    """Where the rest has more than the 1e-8 that Megatron leaves it at least."""
    from megatron.training.distillation.cached_logits_loss import topk_kl_div

    torch.manual_seed(0)
    logits = torch.randn(12, 2, 50)  # [seq, batch, vocabulary]
    ids = torch.rand(12, 2, 50).topk(8).indices
    teacher = torch.randn(12, 2, 8).log_softmax(-1) + math.log(0.9)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    logprobs = ours.log_softmax(-1)
    rest = logprobs.scatter(2, ids, -math.inf).logsumexp(-1, keepdim=True)
    student = torch.cat([logprobs.gather(2, ids), rest], dim=-1)
    own = divergence("forward_kl", with_tail(teacher), student)
    given = theirs * 1.0  # it is changed in place
    expected = topk_kl_div(given, teacher, ids, 1, 0, None, add_ghost_token=True)
    torch.testing.assert_close(own.t(), expected, rtol=0, atol=1e-5)
    own.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-5)
