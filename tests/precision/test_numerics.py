import pytest
import torch

from megatron_dasd.precision.numerics import Numerics
from megatron_dasd.precision.quantisation import E4M3, Quantised, quantise, quantise_tensor


def noted(kind: str, x: torch.Tensor, quantised: Quantised, numerics: Numerics) -> None:
    numerics.note(kind, x, quantised, quantised.dequantise())


def test_what_is_cut_what_vanishes_and_what_rounds() -> None:
    numerics = Numerics()
    # at scale 1: cut to 448; kept; kept though the largest; to 0; 17 to 16; a zero, not counted
    x = torch.tensor([[896.0, 2.0, 448.0, 2.0**-11, 17.0, 0.0]])
    noted("input", x, quantise(x, E4M3, torch.ones(())), numerics)
    figures = numerics.take()["fp8"]
    assert set(figures) == {"input"}
    assert figures["input"]["saturated"] == 1 / 5
    assert figures["input"]["flushed"] == 1 / 5
    signal = 896.0**2 + 4 + 448**2 + 2.0**-22 + 17**2
    assert figures["input"]["noise"] == pytest.approx(((448**2 + 2.0**-22 + 1) / signal) ** 0.5)


def test_meeting_the_largest_is_not_beyond_it() -> None:
    numerics = Numerics()
    for largest in torch.linspace(0.1, 10, 200).tolist():
        x = torch.tensor([[largest, largest / 3]])
        noted("input", x, quantise_tensor(x, E4M3), numerics)
    assert numerics.take()["fp8"]["input"]["saturated"] == 0


def test_tensors_add_up_until_they_are_asked_for() -> None:
    numerics = Numerics()
    for x in (torch.tensor([[448.0, 2.0**-12]]), torch.tensor([[1.0, 1.0]])):
        noted("gradient", x, quantise_tensor(x, E4M3), numerics)
    assert numerics.take()["fp8"]["gradient"]["flushed"] == 1 / 4
    assert numerics.take() == {}


def test_nothing_but_zeros_is_nothing() -> None:
    numerics = Numerics()
    zeros = torch.zeros(2, 2)
    noted("weight", zeros, quantise_tensor(zeros, E4M3), numerics)
    assert numerics.take() == {}
