"""A row for human eyes, and every kind of damage found and named."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.data.indexed import DataFormat, ShardWriter, write_data
from megatron_dasd.data.inspect import row_lines
from megatron_dasd.data.inspect_cli import main
from megatron_dasd.data.integrity import faults
from megatron_dasd.data.meta import COMPANIONS, Document
from megatron_dasd.data.packed_dataset import PackedDataset

NAN = float("nan")
# "ab|cde" and "fg": ids 3 and up are the alphabet, 2 ends a turn; rows of 16, aligned to 4
DOCUMENTS = [
    ("one", [3, 4, 5, 6, 7, 2], [0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 3, 0]),
    ("two", [8, 9, 2], [0, 1, 1], [0, 2, 0]),
]


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A finished stage of two documents in one row."""
    settings = {"model": "model"}
    with StageFolder(tmp_path / "data_low", "data_low", "preprocess_data", settings, {}) as folder:
        scratch = folder.scratch("data")
        data_format = DataFormat(16, 4, 30, eod_id=2, companions=tuple(COMPANIONS))
        writer = ShardWriter(scratch, data_format)
        for name, tokens, mask, classes in DOCUMENTS:
            logprobs = np.where(np.array(mask) == 1, -0.5, NAN)
            given = {"tokens": tokens, "loss_mask": mask, "sentence_classes": classes}
            writer.add(name, given | {"teacher_logprobs": logprobs})
        writer.close()
        write_data(scratch, [scratch], data_format)
        folder.commit(scratch)
        records = [
            Document(name=name, num_tokens=len(tokens), num_loss_tokens=sum(mask))
            for name, tokens, mask, _ in DOCUMENTS
        ]
        folder.write_part(0, Document, records[:1])
        folder.write_part(1, Document, records[1:])
        folder.finish()
    return tmp_path / "data_low"


def test_a_row_decoded(stage: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    lines = [
        line if isinstance(line, str) else str(getattr(line, "title", line))
        for line in row_lines(PackedDataset(stage), stage, 0, tokenizer)
    ]
    assert lines == [
        "row 0 of 1: 2 documents, 9 tokens in 16 positions",
        "sentences: teacher student shared boosted",
        "document 0, one: 0 to 5",
        "abcde<|im_end|>",
        "padding to 7",
        "document 1, two: 8 to 10",
        "fg<|im_end|>",
        "padding to 15",
    ]


def test_masked_text_is_dim_and_sentences_are_coloured(
    stage: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    text: Any = list(row_lines(PackedDataset(stage), stage, 0, tokenizer))[3]
    spans = [(str(span.style), text.plain[span.start : span.end]) for span in text.spans]
    assert spans == [("dim", "ab"), ("green", "cd"), ("default", "e<|im_end|>")]


def test_from_the_command_line(
    stage: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stage.parent / "model").symlink_to(model_dir)  # the stage that the manifest names
    assert main([str(stage)]) == 0
    out = capsys.readouterr().out  # no terminal: the mask is in words
    assert "[loss, student]" in out
    assert "[loss]<|im_end|>" in out
    assert main([str(stage), "--row", "1"]) == 2
    assert "no row 1, rows go from 0 to 0" in capsys.readouterr().err
    assert main([str(stage), "--check"]) == 0
    assert "2 documents in 1 rows, no fault" in capsys.readouterr().out
    (stage / "data" / "loss_mask.bin").write_bytes(b"\0" * 9)
    assert main([str(stage), "--check"]) == 1
    assert "loss_mask.bin: has another SHA-256" in capsys.readouterr().out
    assert main([str(stage.parent)]) == 2
    assert "no packed data here" in capsys.readouterr().err


def test_the_tokenizer_can_be_named(
    stage: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(stage)]) == 2
    assert "name it with --model" in capsys.readouterr().err
    assert main([str(stage), "--model", str(model_dir)]) == 0


def test_whole_data_has_no_faults(stage: Path) -> None:
    assert list(faults(stage)) == []
    assert list(faults(stage / "data")) == []


def _bytes(name: str, values: Sequence[float], dtype: type) -> Callable[[Path], None]:
    return lambda data: np.array(values, dtype).tofile(data / name)


def _array(name: str, values: list[int]) -> Callable[[Path], None]:
    return lambda data: np.save(data / name, np.array(values, dtype=np.int64))


def _meta(**changes: float) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        meta = json.loads((data / "meta.json").read_text())
        (data / "meta.json").write_text(json.dumps(meta | changes))

    return change


MASK = [0, 0, 1, 1, 1, 1, 0, 1, 1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: (data / "tokens.bin").unlink(), "tokens.bin is missing"),
        (_bytes("tokens.bin", [3, 4, 5, 6, 77, 2, 8, 9, 2], np.uint16),
         "tokens.bin: document 0, token 4: 77"),
        (_bytes("loss_mask.bin", [*MASK[:-1], 2], np.uint8), "document 1, token 2: 2"),
        (_bytes("loss_mask.bin", [1, *MASK[1:]], np.uint8), "document 0, token 0: 1"),
        (_bytes("loss_mask.bin", [0, 1, *MASK[2:]], np.uint8), "names 6 targets, loss_mask.bin 7"),
        (_bytes("loss_mask.bin", [0, 1, *MASK[2:]], np.uint8),
         "document 0 (one): 4 targets in its record, 5 in loss_mask.bin"),
        (_bytes("teacher_logprobs.bin", [NAN] * 8 + [0.5], np.float32),
         "teacher_logprobs.bin: document 1, token 2: 0.5"),
        (_bytes("sentence_classes.bin", [5] + [0] * 8, np.uint8),
         "sentence_classes.bin: document 0, token 0: 5"),
        (_array("pack_documents.npy", [1, 1]), "document 0 lies in no row"),
        (_array("pack_documents.npy", [0, 2]), "names a document that is not there"),
        (_meta(num_tokens=10), "names 10 tokens, tokens.idx 9"),
        (_meta(fill=0.9), "names a fill of 0.9, it is 0.5625"),
        (_meta(seq_length=8), "row 0 takes 12 of 8 positions"),
        (lambda data: (data.parent / "part-00001.parquet").unlink(),
         "records are not of 2 documents"),
    ],
)  # fmt: skip
def test_damage_is_named(stage: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(stage / "data")
    (stage / "manifest.json").unlink()  # whose hashes would tell of nearly all of it
    found = list(faults(stage))
    assert any(message in fault for fault in found), found
    assert all("\n" not in fault for fault in found)


def test_documents_that_lie_elsewhere_or_overlap(stage: Path) -> None:
    index = bytearray((stage / "data" / "loss_mask.idx").read_bytes())
    index[34 + 8 + 8] = 5  # the second pointer, behind the head and two lengths
    (stage / "data" / "loss_mask.idx").write_bytes(index)
    assert "loss_mask.idx: document 1 has no place of its own" in list(faults(stage))


def test_many_faults_of_a_kind_are_cut_short(stage: Path) -> None:
    np.full(9, 99, np.uint16).tofile(stage / "data" / "tokens.bin")
    (stage / "manifest.json").unlink()
    found = list(faults(stage))
    assert len(found) == 6
    assert found[-1] == "... and more of this kind"
