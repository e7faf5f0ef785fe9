"""Alignment of documents against the layout, worked out by hand."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from megatron_dasd.data.meta import META
from megatron_dasd.errors import UserError
from megatron_dasd.training.slots import require_slots


def data(folder: Path, pack_align: int) -> Path:
    sizes = dict.fromkeys(("num_documents", "num_tokens", "num_loss_tokens", "num_packs"), 1)
    meta = {"seq_length": 4096, "pack_align": pack_align, "fill": 1.0, "vocab_size": 9, "eod_id": 2}
    (folder / META).write_text(json.dumps(meta | sizes | {"companions": [], "file_bytes": {}}))
    return folder


def layout(cp: int = 1, tp: int = 1, sp: bool = True, fp8: str | None = None) -> Namespace:
    return Namespace(
        context_parallel_size=cp,
        tensor_model_parallel_size=tp,
        sequence_parallel=sp and tp > 1,
        fp8=fp8,
    )


@pytest.mark.parametrize(
    ("pack_align", "args"),
    [
        (1, layout()),
        (1, layout(tp=8, sp=False)),
        (8, layout(cp=4)),
        (24, layout(cp=4, tp=3)),
        (64, layout(cp=8, tp=8, fp8="e4m3")),
    ],
)
def test_slots_that_divide(pack_align: int, args: Namespace, tmp_path: Path) -> None:
    require_slots(data(tmp_path, pack_align), args)


@pytest.mark.parametrize(
    ("pack_align", "args", "wants"),
    [
        (1, layout(tp=2), r"wants 2 \(2 for sequence parallel\); preprocess with pack_align 2 "),
        (4, layout(cp=4), r"wants 8 \(8 for 2 x context parallel\); preprocess with pack_align 8 "),
        (24, layout(fp8="hybrid"), r"wants 16 \(16 for FP8\); preprocess with pack_align 48 "),
        (
            16,
            layout(cp=2, tp=3, fp8="e4m3"),
            r"wants 48 \(4 for 2 x context parallel, 3 for sequence parallel, 16 for FP8\)",
        ),
    ],
)
def test_slots_that_do_not(pack_align: int, args: Namespace, wants: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=wants) as told:
        require_slots(data(tmp_path, pack_align), args)
    assert str(told.value).startswith(f"{tmp_path}: documents are padded to multiples of ")
