import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_dasd.device.launch import launch
from megatron_dasd.precision.emulation import _Product
from megatron_dasd.precision.numerics import Numerics
from megatron_dasd.precision.quantisation import E4M3, E5M2, Format
from megatron_dasd.precision.scaling import Blockwise, DelayedHistories, Scaling, Tensorwise
from tests.precision.programs import ARGUMENTS, whole_tensors

TOKENS, INPUTS, OUTPUTS = 160, 144, 272


def random(*shape: int, seed: int) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    # Magnitudes that differ between rows and columns, so that blocks matter.
    return x * torch.logspace(-1, 1, shape[0])[:, None] * torch.logspace(0.5, -0.5, shape[1])


def by_blocks(x: Tensor, form: Format, rows: int, columns: int, power_of_two: bool) -> Tensor:
    """Quantised and back, block after block, from the definition."""
    result = torch.empty_like(x)
    for top in range(0, x.shape[0], rows):
        for left in range(0, x.shape[1], columns):
            part = x[top : top + rows, left : left + columns]
            scale = torch.tensor(form.max) / part.abs().max()
            if power_of_two:
                scale = 2.0 ** torch.floor(torch.log2(scale))
            fp8 = (part * scale).clamp(-form.max, form.max).to(form.dtype).float()
            result[top : top + rows, left : left + columns] = fp8 / scale
    return result


def products(scaling: Scaling) -> tuple[Tensor, Tensor, Tensor]:
    """Output, input's gradient and weight's gradient of an emulated layer."""
    x = random(TOKENS, INPUTS, seed=0).requires_grad_()
    weight = random(OUTPUTS, INPUTS, seed=1).requires_grad_()
    y = _Product.apply(x.view(2, -1, INPUTS), weight, scaling, Numerics()).view(TOKENS, OUTPUTS)
    y.backward(random(TOKENS, OUTPUTS, seed=2))
    assert x.grad is not None
    assert weight.grad is not None
    return y.detach(), x.grad, weight.grad


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_blockwise_products_are_those_of_their_own_blocks() -> None:
    x, weight = random(TOKENS, INPUTS, seed=0), random(OUTPUTS, INPUTS, seed=1)
    gradient = random(TOKENS, OUTPUTS, seed=2)

    def q(x: Tensor, rows: int, columns: int) -> Tensor:
        return by_blocks(x, E4M3, rows, columns, power_of_two=True)

    w = q(weight, 128, 128)
    y, dx, dw = products(Blockwise(E4M3))
    assert relative(y, q(x, 1, 128) @ w.t()) < 1e-6
    assert relative(dx, q(gradient, 1, 128) @ w) < 1e-6
    assert relative(dw, q(gradient, 128, 1).t() @ q(x, 128, 1)) < 1e-6


def test_tensorwise_products_are_those_of_whole_tensors() -> None:
    x, weight = random(TOKENS, INPUTS, seed=0), random(OUTPUTS, INPUTS, seed=1)
    gradient = random(TOKENS, OUTPUTS, seed=2)

    def q(x: Tensor, form: Format) -> Tensor:
        return by_blocks(x, form, *x.shape, power_of_two=False)

    y, dx, dw = products(Tensorwise(E5M2))
    assert relative(y, q(x, E4M3) @ q(weight, E4M3).t()) < 1e-6
    assert relative(dx, q(gradient, E5M2) @ q(weight, E4M3)) < 1e-6
    assert relative(dw, q(gradient, E5M2).t() @ q(x, E4M3)) < 1e-6


@pytest.mark.parametrize(
    ("scaling", "forward", "backward"),
    [
        # Rounding to 3 bits of mantissa errs by some 2.6 % of a number (root mean square), to 2 by
        # 5.2 %; two such operands' errors add in squares: 3.7 % for E4M3 twice, 5.8 % with E5M2.
        (Blockwise(E4M3), (0.03, 0.045), (0.03, 0.045)),
        (Tensorwise(E5M2), (0.03, 0.045), (0.05, 0.07)),
    ],
    ids=["blockwise", "tensorwise"],
)
def test_the_error_has_the_size_of_the_formats_rounding(
    scaling: Scaling, forward: tuple[float, float], backward: tuple[float, float]
) -> None:
    x, weight = random(TOKENS, INPUTS, seed=0), random(OUTPUTS, INPUTS, seed=1)
    gradient = random(TOKENS, OUTPUTS, seed=2)
    exact = (x @ weight.t(), gradient @ weight, gradient.t() @ x)
    bounds = (forward, backward, backward)
    for found, wanted, (low, high) in zip(products(scaling), exact, bounds, strict=True):
        assert low < relative(found, wanted) < high


def test_a_frozen_weight_gets_no_gradient() -> None:
    x = torch.ones(16, 16, requires_grad=True)
    weight = torch.ones(16, 16)
    _Product.apply(x, weight, Blockwise(E4M3), Numerics()).sum().backward()
    assert weight.grad is None
    assert x.grad is not None
    assert x.grad.tolist() == [[16.0] * 16] * 16


@pytest.mark.parametrize(
    "scaling",
    [Blockwise(E4M3), Tensorwise(E5M2), DelayedHistories(ARGUMENTS, E5M2, 1, None).layer(0)],
    ids=["blockwise", "tensorwise", "delayed"],
)
def test_an_expert_without_tokens(scaling: Scaling) -> None:
    x = torch.empty(0, 16, requires_grad=True)
    weight = torch.ones(32, 16, requires_grad=True)
    y = _Product.apply(x, weight, scaling, Numerics())
    y.sum().backward()
    assert x.grad is not None
    assert weight.grad is not None
    assert (y.shape, x.grad.shape) == ((0, 32), (0, 16))
    assert weight.grad.count_nonzero() == 0


def test_types_stay_as_they_are() -> None:
    x = torch.ones(16, 16, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.ones(16, 16, dtype=torch.bfloat16, requires_grad=True)
    y = _Product.apply(x, weight, Blockwise(E4M3), Numerics())
    y.sum().backward()
    assert x.grad is not None
    assert weight.grad is not None
    assert {y.dtype, x.grad.dtype, weight.grad.dtype} == {torch.bfloat16}


# -- Megatron's own model ----------------------------------------------------------------------


def run_model(folder: Path, micro_batches: int = 1, **arguments: Any) -> dict[str, Any]:
    out = folder / "facts.json"
    payload = {"do": "experts", "micro_batches": micro_batches, "out": str(out)}
    payload |= {"config": {}, "arguments": {}} | arguments
    launch("tests.precision.programs", payload, 1, folder)
    facts: dict[str, Any] = json.loads(out.read_text())
    return facts


LAYER_0 = [
    "self_attention.linear_proj",
    "self_attention.linear_qkv",
    *(f"mlp.experts.local_experts.{i}.linear_{fc}" for i in range(4) for fc in ("fc1", "fc2")),
    "mlp.shared_experts.linear_fc1",
    "mlp.shared_experts.linear_fc2",
]


def test_linear_layers_and_experts_take_part_and_nothing_else(tmp_path: Path) -> None:
    facts = run_model(tmp_path, arguments={"fp8": "e4m3", "fp8_recipe": "blockwise"})
    wanted = {f"decoder.layers.{layer}.{name}" for layer in (0, 1) for name in LAYER_0}
    assert set(facts["emulated"]) == wanted
    assert facts["scales"] == {}
    assert all(facts["gradients"].values())
    difference = abs(facts["losses"][0] / facts["exact"] - 1)
    assert 1e-6 < difference < 1e-2


def test_layers_kept_in_bf16_stay_out(tmp_path: Path) -> None:
    config = {"first_last_layers_bf16": True, "num_layers_at_end_in_bf16": 0}
    facts = run_model(tmp_path, config=config, arguments={"fp8_recipe": "tensorwise"})
    assert {name.split(".")[2] for name in facts["emulated"]} == {"1"}


def test_delayed_scales_follow_micro_batches(tmp_path: Path) -> None:
    once = run_model(tmp_path, micro_batches=1)
    twice = run_model(tmp_path, micro_batches=2)
    assert once["losses"] == twice["losses"][:1]
    scales = once["scales"]["decoder.layers.0.self_attention.linear_qkv"]
    assert all(scale != 1.0 for scale in scales)  # input, weight, gradient
    # The same tensors came again: what the second use found it left.
    assert twice["scales"]["decoder.layers.0.self_attention.linear_qkv"][:2] == scales[:2]
    assert twice["losses"][1] != twice["losses"][0]


# -- two tensor-parallel ranks against one process ----------------------------------------------

SHARD_DIMENSION = {"y": 0, "x": 0, "fc1": 0, "fc2": 1}
CLOSE = 1e-3
"""A sum in another order may round a number to the next FP8 one: some 2e-4 of a whole tensor.
A wrong scale errs by some 3e-2."""


def run_shards(folder: Path, micro_batches: int, **arguments: Any) -> dict[str, Tensor]:
    out = folder / "shards"
    payload = {"do": "shards", "micro_batches": micro_batches, "out": str(out)}
    launch("tests.precision.programs", payload | {"arguments": arguments}, 2, folder)
    parts = [torch.load(f"{out}-{rank}", weights_only=True) for rank in range(2)]
    return {
        name: torch.cat([part[name] for part in parts], dim=dimension)
        for name, dimension in SHARD_DIMENSION.items()
    }


def run_whole(num_shards: int, fc1_scaling: Scaling, fc2_scaling: Scaling) -> dict[str, Tensor]:
    """The same two layers in one process, the inner width cut into shards that are summed."""
    whole = {name: x.requires_grad_() for name, x in whole_tensors().items()}
    y = torch.zeros(())
    for fc1, fc2 in zip(
        whole["fc1"].chunk(num_shards, dim=0), whole["fc2"].chunk(num_shards, dim=1), strict=True
    ):
        inner = _Product.apply(whole["x"], fc1, fc1_scaling, Numerics())
        y = y + _Product.apply(inner, fc2, fc2_scaling, Numerics())
    y.backward(whole["gradient"])
    gradients = {name: whole[name].grad for name in ("x", "fc1", "fc2")}
    return {"y": y.detach()} | {k: v for k, v in gradients.items() if v is not None}


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name in SHARD_DIMENSION:
        assert relative(found[name], wanted[name]) < CLOSE, name


def test_tensorwise_shards_have_their_own_scales(tmp_path: Path) -> None:
    """Weights and inner activations are scaled by shard; what is gathered is scaled whole."""
    found = run_shards(tmp_path, 1, fp8_recipe="tensorwise")
    scaling = Tensorwise(E5M2)
    assert_close(found, run_whole(2, scaling, scaling))
    with pytest.raises(AssertionError):
        assert_close(found, run_whole(1, scaling, scaling))


def test_blockwise_shards_of_whole_blocks_equal_one_rank(tmp_path: Path) -> None:
    scaling = Blockwise(E4M3)
    found = run_shards(tmp_path, 1, fp8="e4m3", fp8_recipe="blockwise")
    assert_close(found, run_whole(1, scaling, scaling))


def test_delayed_shards_share_the_largest_of_all(tmp_path: Path) -> None:
    histories = DelayedHistories(ARGUMENTS, E5M2, 2, None)
    for _ in range(2):
        wanted = run_whole(1, histories.layer(0), histories.layer(1))
        histories.forward.end_use()
        histories.backward.end_use()
    assert_close(run_shards(tmp_path, 2), wanted)
