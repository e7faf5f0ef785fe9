"""Bytes of a weight, added up by hand."""

from megatron_dasd.losses.slices import default_bytes, slice_bytes, slice_length
from megatron_dasd.models.sizes import checkpoint_bytes, optimizer_bytes, timeout_minutes


def test_a_checkpoint_holds_weights_their_copy_and_two_moments() -> None:
    assert checkpoint_bytes(10, bf16=True) == 10 * (2 + 4 + 4 + 4)
    assert checkpoint_bytes(10, bf16=False) == 10 * (4 + 4 + 4)  # no copy: they are float32
    assert optimizer_bytes(bf16=True, moment_bytes=2 + 2) == 4 + 2 + 2


def test_slices_hold_no_more_logits_than_their_size() -> None:
    most = 128 * 2**20
    assert slice_length(151_936, 4096, most) == 2**25 // 4096
    assert slice_length(100, 4096, most) == 100  # all of it fits
    assert slice_length(100, 2**26, most) == slice_length(0, 0, most) == 1
    # 220 would fit: whole tiles of 128
    assert slice_length(8192, 151_936, most) == 128
    assert slice_length(8192, 2**25 // 100, most) == 100  # less than a tile
    assert slice_bytes(10, most) == 40
    assert slice_bytes(1e12, most) == most


def test_slices_are_sized_by_the_devices_memory() -> None:
    assert default_bytes(None) == 384 * 2**20
    assert default_bytes(79.1 * 2**30) == default_bytes(80e9) == 2**30  # H100
    assert default_bytes(24e9) == 256 * 2**20


def test_ranks_wait_as_long_as_a_slow_disk_takes() -> None:
    """100 MB a second, and Megatron's own ten minutes besides."""
    assert timeout_minutes(0) == 10
    assert timeout_minutes(60 * 10**8) == 11
    # 30 G weights in bfloat16 with copy and moments: 427 GB
    assert timeout_minutes(checkpoint_bytes(30_500_000_000, True)) == 81
