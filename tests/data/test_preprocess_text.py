"""Stage preprocess_text: texts cut into documents of exact tokens."""

import gzip
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from megatron_dasd.config.data import PreprocessText
from megatron_dasd.data import preprocess_text
from megatron_dasd.data.meta import Document
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.data.preprocess_text import run
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import Manifest
from megatron_dasd.records_io import read_records

RunStage = Callable[..., Manifest]


def settings(**changes: object) -> PreprocessText:
    given = {
        "kind": "preprocess_text",
        "model": "model",
        "files": ["one", "two"],
        "seq_length": 8,
        "document_tokens": 4,
        "pack_align": 1,
    }
    return PreprocessText(**(given | changes))  # type: ignore[arg-type]


@pytest.fixture
def inputs(tmp_path: Path, model_dir: Path) -> dict[str, Path]:
    (tmp_path / "one.txt").write_text("abcdefghi")  # ids 3 to 11
    (tmp_path / "two.txt").write_text("zy")  # 28, 27
    return {"model": model_dir, "one": tmp_path / "one.txt", "two": tmp_path / "two.txt"}


def documents(folder: Path) -> list[list[int]]:
    """Token ids of the documents, sorted; every token but the first must be a target."""
    found = []
    data = PackedDataset(folder)
    for index in range(len(data)):
        row = data[index]
        for start, end in pairwise(row["cu_seqlens"].tolist()):
            here = slice(start, end)
            found.append(row["tokens"][here].tolist())
            assert row["loss_mask"][here].tolist() == [1.0] * (len(found[-1]) - 1) + [0.0]
    return sorted(found)


def test_texts_are_cut_and_a_single_token_is_left_out(
    run_stage: RunStage, inputs: dict[str, Path], tmp_path: Path
) -> None:
    manifest = run_stage(run, settings(), inputs)
    assert documents(tmp_path / "stage") == [[3, 4, 5, 6], [7, 8, 9, 10], [28, 27]]
    assert manifest.counts == {"kept": 3}
    assert manifest.figures["num_tokens"] == 10
    assert manifest.figures["num_loss_tokens"] == 7
    assert [d.name for d in read_records(tmp_path / "stage", Document)] == [
        "one 0",
        "one 1",
        "two 0",
    ]


def test_max_tokens_over_all_texts(
    run_stage: RunStage, inputs: dict[str, Path], tmp_path: Path
) -> None:
    run_stage(run, settings(max_tokens=6), inputs)
    assert documents(tmp_path / "stage") == [[3, 4, 5, 6], [7, 8]]


def test_special_tokens_written_out_in_a_text_are_text(
    run_stage: RunStage, inputs: dict[str, Path], tmp_path: Path
) -> None:
    inputs["one"].write_text("<|im_end|>")
    run_stage(run, settings(files=["one"], document_tokens=8, seq_length=8), inputs)
    assert all(token > 2 for document in documents(tmp_path / "stage") for token in document)


def test_a_text_of_a_package(run_stage: RunStage, model_dir: Path) -> None:
    chosen = settings(files=[], packages={"json": "__init__.py"}, max_tokens=20)
    assert run_stage(run, chosen, {"model": model_dir}).figures["num_tokens"] == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"packages": {"no_such_package": "x"}}, "packages: no_such_package is not installed"),
        ({"packages": {"json": "no_such_file"}}, "packages: json/no_such_file: "),
        ({"document_tokens": 9}, "document_tokens 9 exceeds seq_length 8"),
        ({"files": []}, "hold no text"),
    ],
)
def test_mistakes_are_one_clear_line(
    run_stage: RunStage, inputs: dict[str, Path], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run_stage(run, settings(**changes), inputs)


def test_a_file_that_is_no_text(run_stage: RunStage, inputs: dict[str, Path]) -> None:
    inputs["one"].write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"one\.txt: 'utf-8' codec"):
        run_stage(run, settings(), inputs)


def test_a_restart_after_the_data_but_before_the_manifest(
    run_stage: RunStage, inputs: dict[str, Path], tmp_path: Path
) -> None:
    whole = run_stage(run, settings(), inputs)
    (tmp_path / "stage" / "part-00000.parquet").unlink()
    (tmp_path / "stage" / "manifest.json").unlink()
    assert run_stage(run, settings(), inputs).digest == whole.digest


def test_bytes_of_windows_files(inputs: dict[str, Path]) -> None:
    inputs["one"].write_bytes(b"\xef\xbb\xbfab\r\ncd")
    read = preprocess_text._texts(settings(files=["one"]), inputs)
    assert list(read) == [("one", "ab\r\ncd")]


def test_a_column_of_texts(run_stage: RunStage, inputs: dict[str, Path], tmp_path: Path) -> None:
    lines = tmp_path / "texts.jsonl.gz"
    lines.write_bytes(gzip.compress(b'{"body": "abcdef", "n": 1}\n{"body": "yz"}\n'))
    given = settings(files=["rows"], text_field="body")
    run_stage(run, given, inputs | {"rows": lines})
    assert documents(tmp_path / "stage") == [[3, 4, 5, 6], [7, 8], [27, 28]]
    names = [d.name for d in read_records(tmp_path / "stage", Document)]
    assert names == [
        "rows texts.jsonl.gz 1 0",
        "rows texts.jsonl.gz 1 1",
        "rows texts.jsonl.gz 2 0",
    ]
    lines.write_bytes(gzip.compress(b'{"body": "a"}\n{"body": 3}\n'))
    with pytest.raises(UserError, match="texts.jsonl.gz: record 2: field body: is no str"):
        run_stage(run, given, inputs | {"rows": lines}, name="bad")
