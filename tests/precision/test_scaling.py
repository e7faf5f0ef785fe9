"""What each recipe does to input, weight and gradient, worked out by hand."""

from argparse import Namespace
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_dasd.precision.quantisation import E4M3, E5M2
from megatron_dasd.precision.scaling import (
    Blockwise,
    DelayedHistories,
    History,
    Tensorwise,
    gradient_format,
)


def ramp(rows: int, columns: int) -> Tensor:
    """Magnitudes that grow along both dimensions."""
    return torch.outer(torch.arange(1.0, rows + 1), torch.arange(1.0, columns + 1))


def test_blockwise_has_blocks_along_each_contraction() -> None:
    x = ramp(130, 260)
    over_channels, over_tokens = Blockwise(E4M3).input(x)
    assert over_channels.scale.shape == (130, 3)  # 1 x 128: 260 columns are 128 + 128 + 4
    assert over_tokens.scale.shape == (2, 260)  # 128 x 1: 130 rows are 128 + 2
    # row 0: the largest of columns 0 to 127 is 128: 448 / 128 = 3.5, down to 2
    assert over_channels.scale[0].tolist() == [2.0, 1.0, 1.0]
    # column 0: the largest of rows 0 to 127 is 128, of rows 128 and 129 it is 130
    assert over_tokens.scale[:, 0].tolist() == [2.0, 2.0]
    weight = Blockwise(E4M3).weight(ramp(256, 129))
    assert weight.scale.shape == (2, 2)
    assert weight.scale[0, 0].item() == 2.0**-6  # 448 / 16384 = 0.0273 = 1.75 * 2^-6


def test_blockwise_is_e4m3_throughout() -> None:
    scaling = Blockwise(gradient_format(Namespace(fp8="e4m3")))
    x = ramp(2, 2)
    tensors = [*scaling.input(x), scaling.weight(x), *scaling.gradient(x)]
    assert {tensor.data.dtype for tensor in tensors} == {torch.float8_e4m3fn}


def test_tensorwise_is_hybrid_with_one_scale() -> None:
    scaling = Tensorwise(gradient_format(Namespace(fp8="hybrid")))
    x = torch.tensor([[7.0, 1.0], [0.5, -3.0]])
    over_channels, over_tokens = scaling.input(x)
    assert over_channels is over_tokens
    assert over_channels.scale.item() == scaling.weight(x).scale.item() == 64.0
    assert over_channels.data.dtype == torch.float8_e4m3fn
    gradient = scaling.gradient(x).over_tokens
    assert gradient.data.dtype == torch.float8_e5m2
    assert gradient.scale.item() == 8192.0  # 57344 / 7


def history(length: int = 3, algorithm: str = "max", margin: float = 0) -> History:
    return History(E4M3, 1, length, algorithm, margin, None)


def use(history: History, *largest: float) -> float:
    """Quantise tensors of these magnitudes in one use; the scale that they were given."""
    scales = {history.quantise(torch.tensor([[x, 0.0]]), 0).scale.item() for x in largest}
    history.end_use()
    (scale,) = scales
    return scale


def test_delayed_scales_follow_the_largest_of_the_history() -> None:
    delayed = history()
    scales = [use(delayed, largest) for largest in (7.0, 3.5, 1.75, 0.875, 0.875)]
    # The first use knows nothing; the largest of the last three is 7, 7, 7, then 3.5.
    assert scales == [1.0, 64.0, 64.0, 64.0, 128.0]


def test_delayed_scales_follow_the_most_recent() -> None:
    delayed = history(algorithm="most_recent")
    assert [use(delayed, x) for x in (7.0, 3.5, 7.0, 1.75)] == [1.0, 64.0, 128.0, 64.0]


def test_a_history_of_one_is_the_use_before() -> None:
    delayed = history(length=1)
    assert [use(delayed, x) for x in (7.0, 3.5, 7.0, 1.75)] == [1.0, 64.0, 128.0, 64.0]


def test_the_margin_leaves_powers_of_two() -> None:
    delayed = history(margin=2)
    assert [use(delayed, x) for x in (7.0, 7.0)] == [1.0, 16.0]


def test_a_zero_tensor_leaves_the_scale() -> None:
    delayed = history(algorithm="most_recent")
    assert [use(delayed, x) for x in (7.0, 0.0, 1.0)] == [1.0, 64.0, 64.0]


def test_several_tensors_of_one_use_count_as_one() -> None:
    delayed = history(algorithm="most_recent")
    assert [use(delayed, *xs) for xs in ((3.5, 7.0), (1.0,))] == [1.0, 64.0]


def test_what_outgrows_its_history_saturates() -> None:
    delayed = history()
    use(delayed, 7.0)
    assert delayed.quantise(torch.tensor([[14.0, 7.0]]), 0).dequantise().tolist() == [[7.0, 7.0]]


def histories(num_layers: int = 2, **changes: Any) -> DelayedHistories:
    given = {"fp8_amax_history_len": 4, "fp8_amax_compute_algo": "max", "fp8_margin": 0}
    return DelayedHistories(Namespace(**(given | changes)), E5M2, num_layers, None)


def play(chunk: DelayedHistories, start: float) -> list[float]:
    """A micro-batch through two layers; the scales that input, weight and gradient had."""
    scales = []
    for index in range(2):
        layer = chunk.layer(index)
        x = torch.full((1, 2), start * (index + 1))
        tensors = (layer.input(x)[0], layer.weight(2 * x), layer.gradient(4 * x)[1])
        scales += [tensor.scale.item() for tensor in tensors]
    chunk.forward.end_use()
    chunk.backward.end_use()
    return scales


def test_every_tensor_of_every_layer_has_its_own_history() -> None:
    chunk = histories()
    assert play(chunk, 1.0) == [1.0] * 6
    first = [448.0, 224.0, 57344 / 4, 224.0, 112.0, 57344 / 8]
    assert play(chunk, 0.5) == first


def test_a_checkpoint_holds_the_histories() -> None:
    chunk, other = histories(), histories()
    play(chunk, 1.0)
    play(chunk, 3.0)
    for index in range(2):
        other.layer(index).load_state(chunk.layer(index).state())
    for start in (0.5, 0.25, 0.125, 0.5):
        assert play(chunk, start) == play(other, start)


def test_a_history_of_another_length_keeps_its_scales() -> None:
    chunk, longer = histories(num_layers=1), histories(num_layers=1, fp8_amax_history_len=9)
    chunk.layer(0).input(torch.tensor([[7.0]]))
    chunk.forward.end_use()
    longer.layer(0).load_state(chunk.layer(0).state())
    assert longer.forward.scales.tolist() == [64.0, 1.0]
    assert longer.forward.amaxes.count_nonzero() == 0


@pytest.mark.parametrize("state", [None, torch.zeros(900, dtype=torch.uint8), b"bytes"])
def test_without_a_state_a_run_begins_anew(state: Any) -> None:
    chunk = histories(num_layers=1)
    chunk.layer(0).load_state(state)
    assert chunk.forward.scales.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("scaling", [Blockwise(E4M3), Tensorwise(E5M2)])
def test_current_scales_need_no_state(scaling: Blockwise | Tensorwise) -> None:
    assert scaling.state() is None
    scaling.load_state(None)
