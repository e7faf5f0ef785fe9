"""Bytes of a weight, added up by hand."""

from megatron_dasd.losses.slices import SLICE_ELEMENTS, slice_bytes, slice_length
from megatron_dasd.models.sizes import checkpoint_bytes, optimizer_bytes


def test_a_checkpoint_holds_weights_their_copy_and_two_moments() -> None:
    assert checkpoint_bytes(10, bf16=True) == 10 * (2 + 4 + 4 + 4)
    assert checkpoint_bytes(10, bf16=False) == 10 * (4 + 4 + 4)  # no copy: they are float32
    assert optimizer_bytes(bf16=True, moment_bytes=2 + 2) == 4 + 2 + 2


def test_slices_hold_no_more_logits_than_their_size() -> None:
    assert slice_length(151_936, 4096) == SLICE_ELEMENTS // 4096
    assert slice_length(100, 4096) == 100  # all of it fits
    assert slice_length(100, 2 * SLICE_ELEMENTS) == slice_length(0, 0) == 1
    assert slice_bytes(10) == 40
    assert slice_bytes(1e12) == 128 * 2**20
