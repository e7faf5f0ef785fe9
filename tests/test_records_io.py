"""Records from files: what a malformed one is told by, and what comes back of a whole one."""

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_dasd.artifacts import write_part
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import part_path
from megatron_dasd.record_batches import read_batches
from megatron_dasd.records import Message, Prompt, Response, ScoredResponse
from megatron_dasd.records_io import (
    SetAside,
    arrow_schema,
    parse_record,
    read_records,
    record_files,
    to_table,
)


def response_row(**fields: Any) -> dict[str, Any]:
    row = {
        "prompt": {"prompt_id": "p0", "messages": [{"role": "user", "content": "1 + 1?"}]},
        "temperature": 0.6,
        "candidate": 0,
        "seed": 7,
        "model": "teacher",
        "text": "é2",
        "tokens": {"token_ids": [5, 6], "num_bytes": [2, 1], "logprobs": [-0.5, -1.0]},
        "finish_reason": "stop",
    }
    return row | fields


def tokens(**fields: Any) -> dict[str, Any]:
    return response_row()["tokens"] | fields


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": ""}, "field text: is empty"),
        ({"seed": "seven"}, "field seed: Input should be a valid integer"),
        ({"seed": None}, "field seed: Input should be a valid integer"),
        ({"finish_reason": "tired"}, "field finish_reason: Input should be 'stop' or 'length'"),
        (
            {"tokens": tokens(logprobs=[-0.5])},
            "field tokens.logprobs: 1 values for 2 tokens",
        ),
        (
            {"tokens": tokens(num_bytes=[1, 1])},
            "field tokens.num_bytes: sum to 2, the text has 3 bytes",
        ),
        ({"tokens": {"token_ids": []}}, "field tokens.num_bytes: Field required"),
        (
            {"student_prefix": "So"},
            "field student_prefix_ids: must be given with student_prefix, and only then",
        ),
        (
            {"prompt": {"prompt_id": "p0", "messages": []}},
            "field prompt.messages: is empty",
        ),
        (
            {"prompt": {"prompt_id": "p0", "messages": [{"role": "assistant", "content": "x"}]}},
            "field prompt.messages: the last turn is assistant's, not user's",
        ),
        (
            {"prompt": {"prompt_id": "p0", "messages": [{"role": "user", "content": ""}]}},
            "field prompt.messages.0.content: is empty",
        ),
    ],
)
def test_a_malformed_record_is_told_by_file_record_and_field(
    tmp_path: Path, row: dict[str, Any], reason: str
) -> None:
    file = tmp_path / "r.jsonl"
    rows = [response_row(), response_row(**row)]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    records = read_records(file, Response)
    assert next(records).text == "é2"
    with pytest.raises(UserError) as caught:
        next(records)
    told = str(caught.value)
    assert told.startswith(f"{file}: record 2: {reason}")
    assert told.endswith("; fix the record, or set on_malformed: set_aside")
    assert "\n" not in told


def test_a_missing_field(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text('{"role": "user"}\n')
    with pytest.raises(UserError, match=r"m.jsonl: record 1: field content: is empty"):
        list(read_records(file, Message))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"role": "user"', "bad JSON (Expecting ',' delimiter, column 16)"),
        ("[1]", "no JSON object"),
    ],
)
def test_a_line_that_is_no_record(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text('{"role": "user", "content": "x"}\n\n' + line + "\n")
    with pytest.raises(UserError) as caught:
        list(read_records(file, Message))
    assert str(caught.value).startswith(f"{file}: record 3: {reason};")


def test_malformed_records_are_set_aside_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text(
        '{"role": "user", "content": "x"}\nnonsense\n{"role": "king", "content": "y"}\n'
    )
    aside = SetAside("set_aside")
    assert list(read_records(file, Message, aside.malformed)) == [Message(role="user", content="x")]
    assert aside.counts == {"malformed": 2}
    assert aside.rows == [
        {
            "reason": f"{file}: record 2: bad JSON (Expecting value, column 1)",
            "record": "nonsense",
        },
        {
            "reason": f"{file}: record 3: field role: "
            "Input should be 'system', 'developer', 'user', 'assistant' or 'tool'",
            "record": '{"role": "king", "content": "y"}',
        },
    ]


def test_dropped_records_keep_their_reason() -> None:
    aside = SetAside()
    aside.drop("length", Message(role="user", content="é"))
    assert aside.counts == {"dropped: length": 1}
    (row,) = aside.rows
    assert row["reason"] == "length"
    assert row["record"].startswith('{"role": "user", "content": "é", ')


def test_the_default_stops_at_the_first_malformed_record(tmp_path: Path) -> None:
    aside = SetAside()
    with pytest.raises(UserError, match="fix the record"):
        aside.malformed("f: record 1: field x: is empty", "{}")
    assert aside.counts == {}


def test_a_record_comes_back_whole_through_parquet(tmp_path: Path) -> None:
    response = parse_record(Response, response_row())
    folder = tmp_path / "s"
    folder.mkdir()
    pq.write_table(to_table(Response, [response], {"kept": 1}), folder / "part-00000.parquet")
    assert list(read_records(folder, Response)) == [response]
    assert pq.read_schema(folder / "part-00000.parquet").metadata == {b"counts": b'{"kept": 1}'}


def test_numbering_goes_on_over_parquet_batches(tmp_path: Path) -> None:
    rows = [asdict(Message(role="user", content=str(n))) for n in range(600)]
    rows[520]["role"] = "king"
    file = tmp_path / "m.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    with pytest.raises(UserError, match="m.parquet: record 521: field role"):
        list(read_records(file, Message))


def test_fields_that_a_later_stage_adds_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text('{"role": "user", "content": "x", "later": 1}\n')
    assert list(read_records(file, Message)) == [Message(role="user", content="x")]


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    file = tmp_path / "m.parquet"
    file.write_text("nonsense")
    with pytest.raises(UserError, match="m.parquet: not a readable Parquet file"):
        list(read_records(file, Message))


def test_pages_are_compared_with_their_checksums(tmp_path: Path) -> None:
    content = "".join(random.Random(0).choices("abcdefgh", k=2000))
    write_part(tmp_path, 0, Message, [Message(role="user", content=content)])
    file = part_path(tmp_path, 0)
    column = pq.read_metadata(file).row_group(0).column(1)
    assert column.data_page_offset - column.dictionary_page_offset > 800
    whole = file.read_bytes()
    for distance in range(50, 850, 50):  # the dictionary, which holds the text
        damaged = bytearray(whole)
        damaged[column.dictionary_page_offset + distance] ^= 1
        file.write_bytes(damaged)
        for read in (read_records, read_batches):
            with pytest.raises(UserError, match=r"part-00000.parquet: not a readable Parquet file"):
                list(read(file, Message))


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_bytes(b'{"role": "user", "content": "\xff"}')
    with pytest.raises(UserError, match=r"record 1: not UTF-8 text \(invalid .* byte 29 of"):
        list(read_records(file, Message))


def test_which_files_hold_the_records_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no records here"):
        record_files(tmp_path)
    for name in ("b.jsonl", "a.parquet", "notes.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in record_files(tmp_path)] == ["a.parquet", "b.jsonl"]
    for name in ("part-00001.parquet", "part-00000.parquet", "set_aside-00000.parquet"):
        (tmp_path / name).touch()
    assert [p.name for p in record_files(tmp_path)] == ["part-00000.parquet", "part-00001.parquet"]
    assert record_files(tmp_path / "b.jsonl") == [tmp_path / "b.jsonl"]


def test_arrow_schema_of_nested_records() -> None:
    schema = arrow_schema(Prompt)
    call = pa.struct([(name, pa.string()) for name in ("name", "arguments", "call_id")])
    message = pa.struct(
        [
            ("role", pa.string()),
            ("content", pa.string()),
            ("thinking", pa.string()),
            ("tool_calls", pa.list_(call)),
            ("tool_call_id", pa.string()),
            ("name", pa.string()),
            ("trains", pa.bool_()),
        ]
    )
    assert schema.field("messages").type == pa.list_(message)
    assert schema.field("reference_answer").type == pa.string()
    scored = arrow_schema(ScoredResponse)
    assert scored.field("student_tokens").type.field("logprobs").type == pa.list_(pa.float64())
