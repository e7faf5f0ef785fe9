"""Alignment of documents and rows against the layout, worked out by hand."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from megatron_dasd.data.meta import META
from megatron_dasd.errors import UserError
from megatron_dasd.training.slots import require_slots


def data(folder: Path, pack_align: int, seq_length: int) -> Path:
    sizes = dict.fromkeys(("num_documents", "num_tokens", "num_loss_tokens", "num_packs"), 1)
    meta = {"seq_length": seq_length, "pack_align": pack_align, "fill": 1.0, "vocab_size": 9}
    meta |= sizes | {"eod_id": 2, "companions": [], "file_bytes": {}}
    (folder / META).write_text(json.dumps(meta))
    return folder


def layout(cp: int = 1, tp: int = 1, sp: bool = True) -> Namespace:
    return Namespace(
        context_parallel_size=cp, tensor_model_parallel_size=tp, sequence_parallel=sp and tp > 1
    )


@pytest.mark.parametrize(
    ("pack_align", "seq_length", "args"),
    [
        (1, 7, layout()),
        (1, 7, layout(tp=2, sp=False)),
        (1, 8, layout(tp=2)),
        (8, 48, layout(cp=4, tp=3)),
        (64, 65_536, layout(cp=32, tp=8)),
    ],
)
def test_data_that_divides(
    pack_align: int, seq_length: int, args: Namespace, tmp_path: Path
) -> None:
    require_slots(data(tmp_path, pack_align, seq_length), args)


@pytest.mark.parametrize(
    ("pack_align", "seq_length", "args", "told"),
    [
        (4, 64, layout(cp=4), r"of 4 \(pack_align\) in rows of 64; 4 context-.* multiples of 8:"),
        (8, 12, layout(cp=4), r"of 8 \(pack_align\) in rows of 12; 4 context-.* multiples of 8:"),
        (1, 7, layout(tp=2), r"rows of 7 \(seq_length\) do not divide among 2 ranks"),
        (8, 40, layout(cp=4, tp=3), r"among 12 ranks .* a seq_length that is a multiple of 12$"),
    ],
)
def test_data_that_does_not(
    pack_align: int, seq_length: int, args: Namespace, told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told) as error:
        require_slots(data(tmp_path, pack_align, seq_length), args)
    assert str(error.value).startswith(f"{tmp_path}: ")
