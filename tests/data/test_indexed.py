"""Shards laid end to end, and the index that Megatron's own writer would have written."""

from pathlib import Path

import numpy as np
import pytest
from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

from megatron_dasd.data.indexed import (
    _INDEX_CODES,
    DataFormat,
    ShardWriter,
    write_data,
    write_index,
)
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.errors import UserError

FORMAT = DataFormat(8, 2, 100, eod_id=2, companions=("teacher_logprobs", "sentence_classes"))


def write_shard(folder: Path, *documents: list[int]) -> Path:
    """Documents whose last token is a target with a known log-prob."""
    folder.mkdir()
    writer = ShardWriter(folder, FORMAT)
    for tokens in documents:
        rest = len(tokens) - 1
        writer.add(
            "x",
            {
                "tokens": tokens,
                "loss_mask": [0] * rest + [1],
                "teacher_logprobs": [np.nan] * rest + [-tokens[-1] / 4],
                "sentence_classes": [0] * (rest + 1),
            },
        )
    writer.close()
    return folder


@pytest.mark.parametrize("lengths", [[3], [3, 1, 2**20, 7], []])
def test_the_index_is_the_one_of_megatron_s_writer(tmp_path: Path, lengths: list[int]) -> None:
    import torch

    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.int32)
    for length in lengths:
        builder.add_item(torch.zeros(length))
        builder.end_document()
    builder.finalize(str(tmp_path / "theirs.idx"))
    write_index(tmp_path / "ours.idx", np.int32, np.array(lengths, np.int32), num_chunk=2)
    assert (tmp_path / "ours.idx").read_bytes() == (tmp_path / "theirs.idx").read_bytes()


def test_types_have_megatron_s_numbers() -> None:
    assert {t: DType.code_from_dtype(t) for t in _INDEX_CODES} == _INDEX_CODES


def test_shards_are_laid_end_to_end(tmp_path: Path) -> None:
    shards = [
        write_shard(tmp_path / "0", [5, 6, 7], [8, 9]),
        write_shard(tmp_path / "1"),
        write_shard(tmp_path / "2", [10, 11]),
    ]
    (tmp_path / "data").mkdir()
    meta = write_data(tmp_path / "data", shards, FORMAT)
    assert (meta.num_documents, meta.num_tokens, meta.num_loss_tokens) == (3, 7, 3)
    assert meta.companions == ["teacher_logprobs"]  # no sentence's class is known
    data = PackedDataset(tmp_path)
    assert [data.document(i)["tokens"].tolist() for i in range(3)] == [[5, 6, 7], [8, 9], [10, 11]]
    assert data.document(2)["teacher_logprobs"][1] == -11 / 4
    one = write_shard(tmp_path / "one", [5, 6, 7], [8, 9], [10, 11])
    write_data(one, [one], FORMAT)
    for path in (tmp_path / "data").iterdir():
        assert path.read_bytes() == (one / path.name).read_bytes()
    assert {p.name for p in one.iterdir()} == {p.name for p in (tmp_path / "data").iterdir()}


def test_a_shard_cut_short(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "0", [5, 6, 7])
    (shard / "loss_mask.bin").write_bytes(b"")
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="0: damaged"):
        write_data(tmp_path / "data", [shard], FORMAT)


def test_no_documents(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no documents"):
        write_data(tmp_path, [write_shard(tmp_path / "0")], FORMAT)
