"""FP8 numbers worked out by hand from the formats' definitions."""

import pytest
import torch
from torch import Tensor

from megatron_dasd.precision.quantisation import (
    E4M3,
    E5M2,
    Format,
    block_amax,
    quantise,
    quantise_blocks,
    quantise_tensor,
    scale_from,
)

ONE = torch.ones(())
FLOAT32_MAX = torch.finfo(torch.float32).max


def row(*values: float) -> Tensor:
    return torch.tensor([values])


def bytes_of(data: Tensor) -> list[int]:
    return data.view(torch.uint8).flatten().tolist()


# value, its byte (sign, exponent, mantissa), the value that the byte stands for
E4M3_CASES = [
    (0.0, 0b0_0000_000, 0.0),
    (1.0, 0b0_0111_000, 1.0),
    (-1.0, 0b1_0111_000, -1.0),
    (1.1, 0b0_0111_001, 1.125),  # the step between 1 and 2 is 1/8
    (17.0, 0b0_1011_000, 16.0),  # between 16 and 18: a tie, to the even mantissa
    (19.0, 0b0_1011_010, 20.0),  # between 18 and 20: a tie, to the even mantissa
    (448.0, 0b0_1111_110, 448.0),  # the largest; 0_1111_111 is NaN
    (449.0, 0b0_1111_110, 448.0),
    (1e9, 0b0_1111_110, 448.0),
    (-1e9, 0b1_1111_110, -448.0),
    (float("inf"), 0b0_1111_110, 448.0),
    (2.0**-6, 0b0_0001_000, 2.0**-6),  # the smallest normal
    (2.0**-9, 0b0_0000_001, 2.0**-9),  # the smallest subnormal
    (3.0 * 2**-10, 0b0_0000_010, 2.0**-8),  # between 1 and 2 subnormal steps: to the even one
    (5.0 * 2**-10, 0b0_0000_010, 2.0**-8),  # between 2 and 3
    (2.0**-10, 0b0_0000_000, 0.0),  # half a step: to zero
    (2.0**-10 * 1.01, 0b0_0000_001, 2.0**-9),
]
E5M2_CASES = [
    (0.0, 0b0_00000_00, 0.0),
    (1.0, 0b0_01111_00, 1.0),
    (-1.0, 0b1_01111_00, -1.0),
    (1.1, 0b0_01111_00, 1.0),  # the step between 1 and 2 is 1/4
    (9.0, 0b0_10010_00, 8.0),  # between 8 and 10: a tie, to the even mantissa
    (11.0, 0b0_10010_10, 12.0),  # between 10 and 12: a tie, to the even mantissa
    (57344.0, 0b0_11110_11, 57344.0),  # the largest; 0_11111_00 is infinity
    (61440.0, 0b0_11110_11, 57344.0),
    (1e9, 0b0_11110_11, 57344.0),
    (-float("inf"), 0b1_11110_11, -57344.0),
    (2.0**-14, 0b0_00001_00, 2.0**-14),  # the smallest normal
    (2.0**-16, 0b0_00000_01, 2.0**-16),  # the smallest subnormal
    (3.0 * 2**-17, 0b0_00000_10, 2.0**-15),  # between 1 and 2 subnormal steps: to the even one
    (2.0**-17, 0b0_00000_00, 0.0),
]


@pytest.mark.parametrize(
    ("form", "value", "byte", "meaning"),
    [(E4M3, *case) for case in E4M3_CASES] + [(E5M2, *case) for case in E5M2_CASES],
)
def test_a_number_rounds_as_its_format_says(
    form: Format, value: float, byte: int, meaning: float
) -> None:
    quantised = quantise(row(value), form, ONE)
    assert bytes_of(quantised.data) == [byte]
    assert quantised.dequantise().item() == meaning


@pytest.mark.parametrize("form", [E4M3, E5M2])
def test_bfloat16_rounds_as_the_float32_of_the_same_value(form: Format) -> None:
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    from_bf16, from_fp32 = (quantise(y, form, torch.tensor(3.7)) for y in (x, x.float()))
    assert bytes_of(from_bf16.data) == bytes_of(from_fp32.data)


def test_a_nan_stays_one() -> None:
    assert quantise(row(float("nan")), E4M3, ONE).dequantise().isnan().all()


@pytest.mark.parametrize(
    ("largest", "form", "scale", "power_of_two"),
    [
        (7.0, E4M3, 64.0, 64.0),
        (10.0, E4M3, 448 / 10, 32.0),  # 44.8, down to a power of two
        (448.0, E4M3, 1.0, 1.0),
        (449.0, E4M3, 448 / 449, 0.5),
        (3.5, E5M2, 16384.0, 16384.0),
        (5.0, E5M2, 57344 / 5, 8192.0),  # 11468.8
        (0.0, E4M3, 1.0, 1.0),
        (float("inf"), E4M3, 1.0, 1.0),
        (float("nan"), E4M3, 1.0, 1.0),
        (1e-38, E4M3, FLOAT32_MAX, 2.0**127),  # 4.48e40 is beyond float32
        (2.0**127, E4M3, 448 / 2.0**127, 2.0**-119),  # 1.75 * 2^-119
    ],
)
def test_scales(largest: float, form: Format, scale: float, power_of_two: float) -> None:
    found = torch.tensor(largest)
    assert scale_from(found, form).item() == torch.tensor(scale).item()
    assert scale_from(found, form, power_of_two=True).item() == power_of_two


def test_a_scale_not_known_stays_as_it_was() -> None:
    largest = torch.tensor([0.0, 7.0, float("inf")])
    scales = scale_from(largest, E4M3, otherwise=torch.tensor([3.0, 4.0, 5.0]))
    assert scales.tolist() == [3.0, 64.0, 5.0]


def test_a_tensors_largest_meets_the_formats_largest() -> None:
    quantised = quantise_tensor(torch.tensor([[7.0, -3.5], [0.11, 0.0]]), E4M3)
    assert quantised.scale.item() == 64.0
    # 0.11 * 64 = 7.04: the step between 4 and 8 is 1/2, so 7
    assert quantised.data.float().tolist() == [[448.0, -224.0], [7.0, 0.0]]
    assert quantised.dequantise().tolist() == [[7.0, -3.5], [7 / 64, 0.0]]


def test_every_row_block_has_its_own_power_of_two() -> None:
    x = torch.zeros(2, 5)
    x[0] = torch.tensor([10.0, 9.0, 1.0, 100.0, 3.0])
    # the second row is zero throughout
    quantised = quantise_blocks(x, E4M3, (1, 2))
    # by twos: 448/10 -> 32, 448/100 -> 4, 448/3 = 149.3 -> 128
    assert quantised.scale.tolist() == [[32.0, 4.0, 128.0], [1.0, 1.0, 1.0]]
    # 10*32 = 320, 9*32 = 288, 1*4 = 4, 100*4 = 400 -> a tie of 384 and 416, 3*128 = 384
    assert quantised.data.float().tolist() == [[320.0, 288.0, 4.0, 384.0, 384.0], [0.0] * 5]
    assert quantised.dequantise().tolist() == [[10.0, 9.0, 1.0, 96.0, 3.0], [0.0] * 5]


def test_columns_and_squares() -> None:
    x = torch.tensor([[1.0, 20.0, 3.0], [-4.0, 5.0, 600.0], [7.0, 8.0, 0.0]])
    assert block_amax(x, (2, 1)).tolist() == [[4.0, 20.0, 600.0], [7.0, 8.0, 0.0]]
    assert block_amax(x, (2, 2)).tolist() == [[20.0, 600.0], [8.0, 0.0]]
    scales = quantise_blocks(x, E4M3, (2, 2)).scale
    assert scales.tolist() == [[16.0, 0.5], [32.0, 1.0]]  # 22.4, 0.746..., 56, zeros


def test_square_blocks_of_the_transpose_are_the_transposed_blocks() -> None:
    x = torch.randn(300, 200, generator=torch.Generator().manual_seed(0))
    straight, turned = (quantise_blocks(y, E4M3, (128, 128)) for y in (x, x.t()))
    assert torch.equal(straight.dequantise(), turned.dequantise().t())


def test_an_empty_tensor_has_scale_one() -> None:
    assert quantise_tensor(torch.empty(0, 16), E4M3).scale.item() == 1.0
    assert quantise_blocks(torch.empty(0, 16), E4M3, (128, 1)).dequantise().shape == (0, 16)


@pytest.mark.parametrize(("form", "mantissa_bits"), [(E4M3, 3), (E5M2, 2)])
def test_the_error_is_at_most_half_a_step(form: Format, mantissa_bits: int) -> None:
    x = torch.rand(256, 256, generator=torch.Generator().manual_seed(0)) + 0.5
    error = (quantise_tensor(x, form).dequantise() / x - 1).abs()
    half_step = 2.0 ** -(mantissa_bits + 1)
    assert half_step / 2 < error.max() <= half_step * 1.000001
    assert 0.2 * half_step < error.mean() < 0.5 * half_step
