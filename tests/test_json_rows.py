"""Rows of JSON lines and arrays, compressed or not; what is damaged is refused by name."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from megatron_dasd import json_rows as module
from megatron_dasd.errors import UserError
from megatron_dasd.json_rows import count_json_rows, is_plain_lines, json_rows, kind_of
from megatron_dasd.records_io import parse_line, record_files

ROWS = [{"a": "x\r\ny"}, {"a": ["]", ",", "{"]}, {"a": "é" * 50}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
ARRAY = json.dumps(ROWS, indent=1).encode()


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def read(file: Path) -> list[object]:
    rows = [parse_line(text) for _, text in json_rows(file)]
    assert count_json_rows(file) == len(rows)
    return list(rows)


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        ("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress),
        (".zst", zstd),
    ],
)  # fmt: skip
@pytest.mark.parametrize("content", [LINES, ARRAY], ids=["lines", "array"])
def test_compressions(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes], content: bytes
) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        assert read(write(tmp_path / f"a.json{suffix}", compress(mark + content))) == ROWS
    if content is LINES and suffix:  # several members one after the other
        assert read(write(tmp_path / f"b.jsonl{suffix}", compress(LINES) * 2)) == ROWS * 2
    if suffix:
        file = write(tmp_path / f"cut.jsonl{suffix}", compress(LINES * 99)[:-9])
        with pytest.raises(UserError, match=rf"cut.jsonl{suffix}: not readable \("):
            read(file)


def test_a_compressed_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a.jsonl.gz: not readable \("):
        read(write(tmp_path / "a.jsonl.gz", LINES))
    with pytest.raises(UserError, match=r"b.jsonl.gz: not readable \("):
        read(write(tmp_path / "b.jsonl.gz", gzip.compress(LINES) + b"trailing"))


def test_line_ends_marks_and_numbers(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"a": 1}\r\n\r\n\xef\xbb\xbf{"a": "x\\r\\ny\xe2\x80\xa8"}'
    rows = [
        (number, parse_line(text)) for number, text in json_rows(write(tmp_path / "a", content))
    ]
    assert rows == [(1, {"a": 1}), (3, {"a": "x\r\ny\u2028"})]


@pytest.mark.parametrize("block", [1, 2, 7, 64])
def test_an_array_is_read_block_by_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    for content in (ARRAY, json.dumps(ROWS).encode(), b" [ 1 , -25,\n null]\n", b"[]"):
        found = [json.loads(text) for _, text in json_rows(write(tmp_path / "a.json", content))]
        assert found == json.loads(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'[{"a": 1}, {"a": ', r"record 2: bad JSON \(Expecting value\)"),
        (b'[{"a": 1} {"a": 2}]', r"record 2: bad JSON \(Expecting ',' between two records\)"),
        (b'[{"a": 1},]', r"record 2: bad JSON \(Expecting value\)"),
        (b'[{"a": 1}] x', r"record 2: bad JSON \(text follows the end of the array\)"),
        (b"[" * 100_000, r"record 1: bad JSON \(nested too deep\)"),
        (b'{\n "a": 1\n}', r"record 1: bad JSON \(an object over several lines; expec"),
        (LINES.decode().encode("utf-16"), "UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8"),
        (LINES.decode().encode("utf-16-le"), "UTF-16-LE text; convert it: iconv -f UTF-16-LE"),
        (LINES.decode().encode("utf-32-be"), "UTF-32-BE text; convert it"),
        (b'{"a": 1}\n{"a": "\xe9"}\n', r"record 2: not UTF-8 text \(invalid .* byte 7 of the line"),
    ],
)  # fmt: skip
def test_what_is_no_json_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=rf"a.json: {reason}"):
        read(write(tmp_path / "a.json", content))


def test_which_files_are_read_in_pieces(tmp_path: Path) -> None:
    assert is_plain_lines(write(tmp_path / "a.jsonl", LINES))
    assert not is_plain_lines(write(tmp_path / "b.jsonl", ARRAY))
    assert not is_plain_lines(write(tmp_path / "c.jsonl.gz", gzip.compress(LINES)))
    assert not is_plain_lines(write(tmp_path / "d.parquet", b""))
    assert [kind_of(Path(name)) for name in ("a.JSONL.GZ", "b.xz", "c")] == [".jsonl", "", ""]


def test_other_kinds_of_files_are_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "b.tsv.gz", "c.xlsx"):
        file = write(tmp_path / name, b"a,b\n1,2\n")
        with pytest.raises(UserError, match=rf"{name}: {kind_of(file)} files cannot be read; conv"):
            record_files(file)
