"""A layer's state in a checkpoint passes the inspection, and comes back bit for bit."""

import io
import pickle

import pytest
import torch

from megatron_dasd.checkpoint.inspection import check_entry
from megatron_dasd.precision import extra_state


def test_numbers_come_back_bit_for_bit() -> None:
    state = torch.rand(5, 3) * torch.tensor([1e-30, 1.0, 3e38])
    packed = extra_state.pack(state)
    assert packed is not None
    assert torch.equal(extra_state.unpack(packed), state)
    assert extra_state.pack(None) is None


def test_the_inspection_of_checkpoints_passes_it() -> None:
    entry = io.BytesIO()
    torch.save(extra_state.pack(torch.ones(5, 3)), entry)
    check_entry(entry.getvalue(), extra_state=True)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80", pickle.dumps(print), pickle.dumps({"scale": 1}), b"cos\nsystem\n.", None],
    ids=["empty", "cut", "a function", "another program's", "a call", "a tensor of numbers"],
)
def test_what_another_program_wrote_is_left_alone(content: bytes | None) -> None:
    packed = torch.ones(5, 3) if content is None else torch.tensor(list(content), dtype=torch.uint8)
    assert extra_state.unpack(packed) is None
