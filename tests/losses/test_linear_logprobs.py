import math

import pytest
import torch
from torch import Tensor

from megatron_dasd.losses.linear_logprobs import VocabShard, add_product, linear_logprobs
from tests.losses.dense import logprobs_and_rest, problem, weighted

SMALL = {"T": 37, "H": 16, "V": 101}


def close(actual: Tensor | None, expected: Tensor | None, tolerance: float = 1e-5) -> None:
    assert actual is not None
    assert expected is not None
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


def test_worked_out_by_hand() -> None:
    # logits ln 1, ln 2, ln 5: probabilities 1/8, 2/8, 5/8
    hidden = torch.tensor([[1.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [2.0], [5.0]]).log().requires_grad_()
    logprobs, rest = linear_logprobs(hidden, weight, torch.tensor([[1]]), VocabShard(0, 3))
    assert logprobs.tolist() == [[pytest.approx(math.log(1 / 4))]]
    assert rest.tolist() == [pytest.approx(math.log(3 / 4))]
    logprobs.sum().backward()
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == pytest.approx([-1 / 8, 3 / 4, -5 / 8])
    assert hidden.grad is not None
    assert hidden.grad.item() == pytest.approx(3 / 4 * math.log(2) - 5 / 8 * math.log(5))


def test_gradient_of_the_rest_worked_out_by_hand() -> None:
    # the rest are tokens 0 and 2 with 1/8 and 5/8: of it 1/6 and 5/6
    hidden = torch.tensor([[1.0]])
    weight = torch.tensor([[1.0], [2.0], [5.0]]).log().requires_grad_()
    linear_logprobs(hidden, weight, torch.tensor([[1]]), VocabShard(0, 3))[1].sum().backward()
    assert weight.grad is not None
    expected = [1 / 6 - 1 / 8, -1 / 4, 5 / 6 - 5 / 8]
    assert weight.grad.flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("num_chosen", [1, 5])
@pytest.mark.parametrize("width", [1, 7, 101, 500])
def test_equals_whole_logits_in_float64(num_chosen: int, width: int) -> None:
    hidden, weight, ids = problem(*SMALL.values(), num_chosen)
    hidden.requires_grad_()
    weight.requires_grad_()
    expected = logprobs_and_rest(hidden @ weight.t(), ids)
    weighted(*expected).backward()
    own_hidden = hidden.detach().float().requires_grad_()
    own_weight = weight.detach().float().requires_grad_()
    actual = linear_logprobs(
        own_hidden,
        own_weight,
        ids,
        VocabShard(0, SMALL["V"], None, slice_bytes=4 * width * SMALL["T"]),
    )
    weighted(*actual).backward()
    for own, wanted in zip(actual, expected, strict=True):
        close(own, wanted)
    close(own_hidden.grad, hidden.grad)
    close(own_weight.grad, weight.grad)


def test_gradients_are_those_of_finite_differences() -> None:
    hidden, weight, ids = problem(3, 4, 9, 2)
    ids[0, 1] = ids[0, 0] + 1 if ids[0, 0] < 8 else 0  # no -inf, whose differences are no numbers
    hidden.requires_grad_()
    weight.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda h, w: linear_logprobs(h, w, ids, VocabShard(0, 9)), (hidden, weight)
    )


def test_padding_takes_no_part() -> None:
    hidden, weight, ids = problem(*SMALL.values(), 1)
    padded = torch.cat([weight, torch.full((27, SMALL["H"]), 100.0, dtype=weight.dtype)])
    padded.requires_grad_()
    logprobs, _ = linear_logprobs(hidden, padded, ids, VocabShard(0, SMALL["V"]))
    close(logprobs, logprobs_and_rest(hidden @ weight.t(), ids)[0], 1e-12)
    logprobs.sum().backward()
    assert padded.grad is not None
    assert padded.grad[SMALL["V"] :].eq(0).all()
    assert padded.grad[: SMALL["V"]].ne(0).all()


def test_a_rest_of_almost_nothing_keeps_its_digits() -> None:
    # z = 40, 0, 0: one minus the first's probability would be 0 in float32
    hidden = torch.tensor([[1.0]])
    weight = torch.tensor([[40.0], [0.0], [0.0]], requires_grad=True)
    logprobs, rest = linear_logprobs(hidden, weight, torch.tensor([[0]]), VocabShard(0, 3))
    assert rest.item() == pytest.approx(math.log(2) - 40)
    (logprobs.sum() + rest.sum()).backward()
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == pytest.approx([-1.0, 0.5, 0.5], rel=1e-5)


def test_everything_chosen_leaves_nothing() -> None:
    hidden, weight = torch.ones(1, 1), torch.zeros(2, 1, requires_grad=True)
    logprobs, rest = linear_logprobs(hidden, weight, torch.tensor([[1, 0]]), VocabShard(0, 2))
    assert rest.item() == float("-inf")
    logprobs.sum().backward()
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [0.0, 0.0]


def test_logits_of_a_thousand_do_not_overflow() -> None:
    hidden, weight = torch.tensor([[1000.0]]), torch.tensor([[1.0], [-1.0]], requires_grad=True)
    logprobs, _ = linear_logprobs(hidden, weight, torch.tensor([[1]]), VocabShard(0, 2))
    assert logprobs.item() == -2000.0
    logprobs.sum().backward()
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [-1000.0, 1000.0]


def test_bfloat16_loses_no_more_than_its_products() -> None:
    hidden, weight, ids = (
        x.bfloat16() if x.is_floating_point() else x for x in problem(64, 32, 300, 1)
    )
    hidden.requires_grad_()
    weight.requires_grad_()
    logprobs, _ = linear_logprobs(hidden, weight, ids, VocabShard(0, 300))
    assert logprobs.dtype == torch.float32
    logprobs.sum().backward()
    own = [x.grad for x in (hidden, weight)]
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    expected = logprobs_and_rest(exact[0] @ exact[1].t(), ids)[0]
    expected.sum().backward()
    close(logprobs, expected, 2e-2)
    for actual, wanted in zip(own, exact, strict=True):
        assert actual is not None
        assert actual.dtype == torch.bfloat16
        assert wanted.grad is not None
        assert (actual.double() - wanted.grad).norm() < 0.01 * wanted.grad.norm()


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    hidden, weight, ids = problem(4, 3, 9, 1)
    weight.requires_grad_()
    linear_logprobs(hidden, weight, ids, VocabShard(0, 9))[0].sum().backward()
    assert hidden.grad is None
    hidden.requires_grad_()
    linear_logprobs(hidden, weight.detach(), ids, VocabShard(0, 9))[0].sum().backward()
    assert hidden.grad is not None


class TestMainGrad:
    """The weight's gradient added to Megatron's buffer."""

    @pytest.fixture
    def weight(self) -> torch.nn.Parameter:
        weight = torch.nn.Parameter(problem(4, 3, 9, 1)[1].float())
        weight.main_grad = torch.ones_like(weight)  # type: ignore[attr-defined]
        weight.grad_added_to_main_grad = False  # type: ignore[attr-defined]
        return weight

    def expected(self) -> Tensor:
        hidden, weight, ids = problem(4, 3, 9, 1)
        weight.requires_grad_()
        logprobs_and_rest(hidden @ weight.t(), ids)[0].sum().backward()
        assert weight.grad is not None
        return weight.grad + 1.0

    def run(self, weight: torch.nn.Parameter, dtype: torch.dtype = torch.float32) -> None:
        hidden, _, ids = problem(4, 3, 9, 1)
        logprobs, _ = linear_logprobs(
            hidden.to(dtype), weight, ids, VocabShard(0, 9), into_main_grad=True
        )
        logprobs.sum().backward()

    def test_is_added_and_said_to_be(self, weight: torch.nn.Parameter) -> None:
        self.run(weight)
        close(weight.main_grad, self.expected())  # type: ignore[attr-defined]
        assert weight.grad_added_to_main_grad  # type: ignore[attr-defined]
        assert weight.grad is not None  # Megatron's overlapping reduction asks for one

    def test_what_autograd_gets_is_zero_where_it_is_added_too(
        self, weight: torch.nn.Parameter
    ) -> None:
        weight.zero_out_wgrad = True  # type: ignore[attr-defined]
        self.run(weight)
        assert weight.grad is not None
        assert weight.grad.eq(0).all()

    def test_without_the_mark_autograd_gets_nothing(self, weight: torch.nn.Parameter) -> None:
        del weight.grad_added_to_main_grad  # type: ignore[attr-defined]
        self.run(weight)
        close(weight.main_grad, self.expected())  # type: ignore[attr-defined]
        assert weight.grad is None

    def test_of_another_dtype_than_the_weight(self) -> None:
        weight = torch.nn.Parameter(problem(4, 3, 9, 1)[1].bfloat16())
        weight.main_grad = torch.ones(9, 3)  # type: ignore[attr-defined]
        self.run(weight, torch.bfloat16)
        close(weight.main_grad, self.expected(), 2e-2)  # type: ignore[attr-defined]


def test_products_of_bfloat16_are_summed_in_float32() -> None:
    """1 + 2^-9 has too many bits for bfloat16: rounded first, the product would be 1."""
    left = torch.tensor([[1.0, 2.0**-9]], dtype=torch.bfloat16)
    right = torch.ones(2, 1, dtype=torch.bfloat16)
    total = torch.tensor([[2.0]])
    add_product(total, left, right)
    assert total.item() == 3 + 2.0**-9
