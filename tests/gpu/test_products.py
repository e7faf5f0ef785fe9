"""Products whose result is of another type than their factors: the CPU has none."""

import pytest
import torch

from megatron_dasd.losses.linear_logprobs import add_product


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_products_of_16_bits_are_summed_in_float32(dtype: torch.dtype) -> None:
    """Rounding each product to bfloat16 would be off by 2e-3."""
    generator = torch.Generator("cuda").manual_seed(0)
    left, right = (
        torch.randn(size, generator=generator, device="cuda").to(dtype)
        for size in ((384, 512), (512, 256))
    )
    total = torch.ones(384, 256, device="cuda")
    expected = total.double() + left.double() @ right.double()
    add_product(total, left, right)
    assert float((total.double() - expected).norm() / expected.norm()) < 1e-5
    transposed = torch.zeros(512, 512, device="cuda")
    add_product(transposed, left.t(), left)  # as the weight's gradient is made
    expected = left.double().t() @ left.double()
    assert float((transposed.double() - expected).norm() / expected.norm()) < 1e-5
