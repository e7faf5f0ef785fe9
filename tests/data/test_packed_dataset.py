"""Indexed data written, opened by stock Megatron, and read as rows: every value by hand."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset

from megatron_dasd.data.indexed import DataFormat, ShardWriter, write_data
from megatron_dasd.data.meta import COMPANIONS, DataMeta, read_meta
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.data.rows import BORDERS
from megatron_dasd.errors import UserError
from megatron_dasd.losses.cross_entropy import token_shares

# two rows of 12, documents aligned to 4: [20 21 22 23 24 . . . | 40 41 . .] and [30 31 32 . ...]
DOCUMENTS = [
    ("a", [40, 41], [0, 1], [0, 2]),
    ("b", [20, 21, 22, 23, 24], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1]),
    ("c", [30, 31, 32], [0, 1, 1], [0, 0, 3]),
]
NAN = float("nan")


def data_format(vocab_size: int = 50) -> DataFormat:
    return DataFormat(12, 4, vocab_size, eod_id=2, companions=tuple(COMPANIONS))


def write(folder: Path, vocab_size: int = 50) -> DataMeta:
    """Documents with classes; the teacher's log-probs are all unknown."""
    folder.mkdir(exist_ok=True)
    writer = ShardWriter(folder, data_format(vocab_size))
    for name, tokens, mask, classes in DOCUMENTS:
        given = {"tokens": tokens, "loss_mask": mask, "sentence_classes": classes}
        writer.add(name, given | {"teacher_logprobs": [NAN] * len(tokens)})
    writer.close()
    return write_data(folder, [folder], data_format(vocab_size))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "data")
    return tmp_path


def test_meta(folder: Path) -> None:
    files = {path.name: path.stat().st_size for path in (folder / "data").iterdir()}
    assert files.pop("meta.json")
    assert (files["tokens.bin"], files["loss_mask.bin"]) == (20, 10)
    assert files["sentence_classes.bin"] == 10
    assert "teacher_logprobs.bin" not in files  # nothing is known of any token
    expected = DataMeta(
        seq_length=12,
        pack_align=4,
        num_documents=3,
        num_tokens=10,
        num_loss_tokens=5,
        num_packs=2,
        fill=10 / 24,
        vocab_size=50,
        eod_id=2,
        companions=["sentence_classes"],
        file_bytes=files,
    )
    assert read_meta(folder) == read_meta(folder / "data") == expected


@pytest.mark.parametrize(("vocab_size", "dtype"), [(50, np.uint16), (151_936, np.int32)])
def test_stock_megatron_opens_all(tmp_path: Path, vocab_size: int, dtype: type) -> None:
    write(tmp_path / "data", vocab_size)
    tokens = IndexedDataset(str(tmp_path / "data" / "tokens"))
    mask = IndexedDataset(str(tmp_path / "data" / "loss_mask"))
    classes = IndexedDataset(str(tmp_path / "data" / "sentence_classes"))
    assert tokens[0].dtype == dtype
    assert mask[0].dtype == np.uint8
    assert tokens.document_indices.tolist() == mask.document_indices.tolist() == [0, 1, 2, 3]
    for index, (_, token_ids, targets, numbers) in enumerate(DOCUMENTS):
        assert classes[index].tolist() == numbers
        assert tokens[index].tolist() == token_ids
        assert mask[index].tolist() == targets


def test_rows(folder: Path) -> None:
    data = PackedDataset(folder)
    assert len(data) == 2
    rows = [{name: values.tolist() for name, values in data[i].items()} for i in range(2)]
    assert rows == [
        {
            "tokens": [20, 21, 22, 23, 24, 0, 0, 0, 40, 41, 0, 0],
            "labels": [21, 22, 23, 24, 0, 0, 0, 0, 41, 0, 0, 0],
            "loss_mask": [0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0],
            "sentence_classes": [0, 0, 1, 1, 0, 0, 0, 0, 2, 0, 0, 0],
            "position_ids": [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3],
            "cu_seqlens": [0, 5, 7],
            "cu_seqlens_padded": [0, 8, 12],
        },
        {
            "tokens": [30, 31, 32, *[0] * 9],
            "labels": [31, 32, *[0] * 10],
            "loss_mask": [1, 1, *[0] * 10],
            "sentence_classes": [0, 3, *[0] * 10],
            "position_ids": list(range(12)),
            "cu_seqlens": [0, 3],
            "cu_seqlens_padded": [0, 12],
        },
    ]
    assert sum(data[i]["loss_mask"].sum() for i in range(2)) == data.meta.num_loss_tokens
    dtypes = {name: values.dtype for name, values in data[0].items()}
    assert dtypes.pop("loss_mask") == np.float32
    assert dtypes.pop("sentence_classes") == np.uint8
    assert {dtypes.pop(name) for name in BORDERS} == {np.dtype(np.int32)}
    assert set(dtypes.values()) == {np.dtype(np.int64)}
    with pytest.raises(IndexError):
        data[2]


def test_padding_row(folder: Path) -> None:
    row = PackedDataset(folder).padding_row()
    assert row["loss_mask"].tolist() == [0.0] * 12
    assert row["cu_seqlens"].tolist() == [0, 0]
    assert row["cu_seqlens_padded"].tolist() == [0, 12]
    assert row["sentence_classes"].tolist() == [0] * 12


def test_a_worker_process_can_be_handed_the_data(folder: Path) -> None:
    copy = pickle.loads(pickle.dumps(PackedDataset(folder)))
    assert copy[1]["tokens"].tolist() == [30, 31, 32, *[0] * 9]


def _remove(name: str) -> Callable[[Path], None]:
    return lambda data: (data / name).unlink()


def _cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda data: (data / name).write_bytes((data / name).read_bytes()[:-size])


def _overwrite(name: str) -> Callable[[Path], None]:
    return lambda data: (data / name).write_bytes(b"?" * (data / name).stat().st_size)


def _meta(**changes: int) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        meta = json.loads((data / "meta.json").read_text())
        (data / "meta.json").write_text(json.dumps(meta | changes))

    return change


def _array(name: str, values: list[int]) -> Callable[[Path], None]:
    return lambda data: np.save(data / name, np.array(values, dtype=np.int64))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove("meta.json"), "no packed data here"),
        (lambda data: (data / "meta.json").write_text("{"), "meta.json: damaged"),
        (_remove("loss_mask.idx"), "loss_mask.idx is missing"),
        (_cut("tokens.bin", 2), "tokens.bin has 18 bytes, meta.json asks for 20"),
        (_remove("pack_offsets.npy"), "pack_offsets.npy is missing"),
        (_overwrite("pack_offsets.npy"), "damaged"),
        (_overwrite("tokens.idx"), "tokens.idx is not of 3 uint16 documents"),
        (_meta(num_documents=4), "tokens.idx is not of 4 uint16 documents"),
        (_meta(vocab_size=70_000), "tokens.idx is not of 3 int32 documents"),
        (_meta(num_packs=3), "does not divide the documents into 3 packs"),
        (_array("pack_offsets.npy", [0, 2, 2]), "does not divide"),
        # told by the row that rests on them
        (_meta(seq_length=8), "row 0: 12 positions do not fit into a row of 8"),
        (_meta(vocab_size=32), "row 0 holds a token id outside the vocabulary of 32"),
        (_array("pack_documents.npy", [1, 7, 0]), "row 0 names a document that is not there"),
        (_array("pack_offsets.npy", [0, 0, 3]), "does not ascend at row 0"),
    ],
)
def test_damage_is_one_clear_line(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder / "data")
    with pytest.raises(UserError, match=message) as error:
        PackedDataset(folder)[0]
    assert "\n" not in str(error.value)


def test_other_lengths_of_the_mask(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    folder = folder / "data"
    writer = ShardWriter(other, data_format())
    for size in (3, 4, 3):
        zeros = {name: [0] * size for name in ("tokens", "loss_mask", *COMPANIONS)}
        writer.add("x", zeros)
    writer.close()
    write_data(other, [other], data_format())
    for suffix in ("bin", "idx"):
        (other / f"loss_mask.{suffix}").replace(folder / f"loss_mask.{suffix}")
    data = PackedDataset(folder.parent)
    assert len(data[1]["tokens"]) == 12
    with pytest.raises(UserError, match="differ in the lengths of the documents of row 0"):
        data[0]


def add(folder: Path, tokens: list[int], mask: list[int]) -> None:
    writer = ShardWriter(folder, DataFormat(8, 4, 32, eod_id=2))
    writer.add("x", {"tokens": tokens, "loss_mask": mask})


@pytest.mark.parametrize(("tokens", "worst"), [([1, 32], 32), ([1, -5], -5)])
def test_ids_outside_the_vocabulary(tmp_path: Path, tokens: list[int], worst: int) -> None:
    message = f"x: token id {worst} is outside the model's vocabulary of 32"
    with pytest.raises(UserError, match=message):
        add(tmp_path, tokens, [0, 1])


@pytest.mark.parametrize(
    ("tokens", "mask"), [([1, 2], [0]), ([1, 2], [1, 1]), ([1] * 9, [0] * 9), ([], [])]
)
def test_documents_that_do_not_fit_are_refused(
    tmp_path: Path, tokens: list[int], mask: list[int]
) -> None:
    with pytest.raises(ValueError, match="x: "):
        add(tmp_path, tokens, mask)


def test_loss_counts_are_those_of_the_rows(folder: Path) -> None:
    data = PackedDataset(folder)
    assert [data.loss_counts(row) for row in range(2)] == [(3, 2), (2, 1)]
    for row in range(2):
        values = [torch.from_numpy(data[row][name]) for name in ("loss_mask", "position_ids")]
        for normalisation, count in zip(("token", "sequence"), data.loss_counts(row), strict=True):
            assert token_shares(*values, normalisation)[1].sum() == count


def test_a_sequence_without_weight_does_not_count(folder: Path) -> None:
    data = PackedDataset(folder)
    data._weights = np.array([0.5, 0.0, 2.0], np.float32)
    assert [data.loss_counts(row) for row in range(2)] == [(1, 1), (2, 1)]
