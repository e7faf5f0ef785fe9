from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megatron_dasd.data.indexed import DataFormat, ShardWriter, write_data
from megatron_dasd.data.meta import COMPANIONS
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.errors import UserError
from megatron_dasd.training import dali
from megatron_dasd.training.batches import ALONE, Member, batches, heldout_packs, training_packs

pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install '.[dali]'")

SEQ_LENGTH, VOCAB = 64, 300


@pytest.fixture
def data(tmp_path: Path) -> PackedDataset:
    """Rows with all companions, and borders of many lengths."""
    data_format = DataFormat(SEQ_LENGTH, 8, VOCAB, eod_id=2, companions=tuple(COMPANIONS))
    writer = ShardWriter(tmp_path, data_format)
    random = np.random.default_rng(0)
    for number in range(40):
        length = int(random.integers(2, SEQ_LENGTH))
        document = {
            "tokens": random.integers(3, VOCAB, length),
            "loss_mask": [0, *random.integers(0, 2, length - 1)],
            "sentence_classes": random.integers(0, 3, length),
            "teacher_logprobs": np.where(random.random(length) < 0.5, np.nan, -1.5),
        }
        writer.add(str(number), document)
    writer.close()
    write_data(tmp_path, [tmp_path], data_format)
    return PackedDataset(tmp_path)


def assert_equal(data: PackedDataset, count: int, *where: Any) -> None:
    """The first batches of both loaders are equal in names, types, shapes and every bit."""
    both = (islice(batches(data, *where, loader=loader), count) for loader in ("torch", "dali"))
    num_compared = 0
    for torchs, dalis in zip(*both, strict=True):
        assert list(torchs) == list(dalis)
        for name, x in torchs.items():
            assert (x.dtype, x.shape) == (dalis[name].dtype, dalis[name].shape), name
            assert x.numpy().tobytes() == dalis[name].numpy().tobytes(), name
        num_compared += 1
    assert num_compared == count


def test_equal_through_two_epochs_and_into_the_padding(data: PackedDataset) -> None:
    num_samples = 2 * len(data)
    packs = training_packs(len(data), num_samples, seed=3)
    assert_equal(data, num_samples + 3, packs, 0, ALONE)


@pytest.mark.parametrize("rank", [0, 1])
def test_equal_on_each_rank_from_consumed_samples_on(data: PackedDataset, rank: int) -> None:
    packs = training_packs(len(data), 2 * len(data), seed=3)
    assert_equal(data, 12, packs, 6, Member(rank, 2))


def test_equal_on_heldout_rows(data: PackedDataset) -> None:
    assert_equal(data, 2 * len(data), heldout_packs(len(data), 4), 0, ALONE)


def test_batches_kept_are_not_written_over(data: PackedDataset) -> None:
    packs = training_packs(len(data), len(data), seed=3)
    kept = list(islice(batches(data, packs, 0, ALONE, loader="dali"), 8))
    fresh = islice(batches(data, packs, 0, ALONE), 8)
    for old, new in zip(kept, fresh, strict=True):
        assert torch.equal(old["tokens"], new["tokens"])


def test_a_bad_row_is_told_as_by_the_default(data: PackedDataset) -> None:
    def pack_of(sample: int) -> int:
        return 0 if sample < 5 else len(data)

    with pytest.raises(IndexError, match=f"row {len(data)} of {len(data)}"):
        list(batches(data, pack_of, 0, ALONE, loader="dali"))


def test_without_dali_the_start_says_so(
    data: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dali, "is_installed", lambda module: module != "nvidia.dali")
    with pytest.raises(UserError, match=r"^loader dali: .* pip install 'megatron_dasd\[dali\]'$"):
        batches(data, lambda _: 0, 0, ALONE, loader="dali")


def test_a_users_mistake_stays_one(data: PackedDataset) -> None:
    def pack_of(sample: int) -> int:
        raise UserError(f"sample {sample} is damaged")

    with pytest.raises(UserError, match="sample 0 is damaged"):
        next(batches(data, pack_of, 0, ALONE, loader="dali"))
