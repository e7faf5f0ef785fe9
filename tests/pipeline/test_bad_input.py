"""Thirty kinds of bad input to the data path, each told in one line, with nothing half-written.

Every case runs a stage by its command line, as a user would.  It must end with status 2 and one
line that names the file, the record where there is one, and the field; it must leave its inputs as
they were and no part of a result; and once the input has been mended the same command must go on.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_dasd.manifests import MANIFEST
from megatron_dasd.pipeline.cli import main
from megatron_dasd.records import (
    FilteredResponse,
    Message,
    Prompt,
    Response,
    ScoredResponse,
    Span,
    TokenLogprobs,
)
from megatron_dasd.records_io import to_table
from megatron_dasd.text.thinking import NORMALISED

Row = dict[str, Any]
TEXT = "<think>\nbad. good.\n</think>\n\nend"


def tokens(text: str, extra: int = 0) -> TokenLogprobs:
    size = len(text.encode())
    return TokenLogprobs(
        token_ids=[3] * (size + extra),
        num_bytes=[1] * size + [0] * extra,
        logprobs=[-1.0] * (size + extra),
    )


def response() -> Row:
    return asdict(
        Response(
            prompt=Prompt(prompt_id="p0", messages=[Message(role="user", content="q")]),
            temperature=0.6,
            candidate=0,
            seed=0,
            model="teacher",
            text=TEXT,
            tokens=tokens(TEXT),
            finish_reason="stop",
        )
    )


def scored() -> Row:
    spans = [asdict(Span(start=8, end=18)), asdict(Span(start=29, end=32))]
    return response() | {
        "output": TEXT,
        "output_spans": spans,
        "text_spans": spans,
        "student_tokens": asdict(tokens(TEXT, extra=1)),
        "student_model": "student",
    }


RELEASED = {
    "uuid": "u0",
    "input": "q",
    "output": "<think>\nbad\n</think>\n\nend",
    "domain": "math",
    "meta": "",
}
IDS = [0, *(3 + ord(letter) - ord("a") for letter in "bad"), 1]
IDS += [3 + ord(letter) - ord("a") for letter in "end"]
LOGPROBS = {"sample_uuid": "u0", "token_ids": IDS, "logprobs": [-1.0] * len(IDS)}
"""As the tokenizer of the tests has them: ids 0 to 2 are special, then come the letters."""

# -- the stages, each with good inputs -------------------------------------------------------------

STAGES: dict[str, Row] = {
    "make_prompts": {"kind": "make_prompts", "files": ["in.jsonl"]},
    "filter_responses": {
        "kind": "filter_responses",
        "responses": ["in.jsonl"],
        "student": "model",
        "max_length": 200,
    },
    "select_das": {"kind": "select_das", "responses": "in.jsonl"},
    "preprocess_data": {
        "kind": "preprocess_data",
        "model": "model",
        "responses": "in.jsonl",
        "seq_length": 256,
    },
    "import_responses": {
        "kind": "import_responses",
        "format": "superior-reasoning",
        "files": ["in.jsonl"],
        "temperature": 0.6,
    },
    "import_chat": {
        "kind": "import_responses",
        "format": "messages",
        "files": ["in.jsonl"],
        "temperature": 0.6,
    },
}
GOOD: dict[str, Row] = {
    "make_prompts": asdict(Prompt(prompt_id="p0", messages=[Message(role="user", content="q")])),
    "filter_responses": response(),
    "select_das": scored(),
    "preprocess_data": scored(),
    "import_responses": RELEASED,
    "import_chat": {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    },
}


def changed(stage: str, *path: str, to: Any) -> str:
    """The good record of a stage with one field changed (or taken out), as a line."""
    row = json.loads(json.dumps(GOOD[stage]))
    place = row
    for name in path[:-1]:
        place = place[name]
    if to is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return json.dumps(row)


#: name: (stage, what stands in line 2 of in.jsonl, what is told after the file and "record 2: ")
LINES: dict[str, tuple[str, str, str]] = {
    "a line that is cut off": ("filter_responses", '{"text": "a', "bad JSON"),
    "a line that is no object": ("filter_responses", "[1, 2]", "no JSON object"),
    "a field that is missing": (
        "filter_responses",
        changed("filter_responses", "model", to=...),
        "field model: Field required",
    ),
    "a field of another type": (
        "filter_responses", changed("filter_responses", "candidate", to="one"), "field candidate: ",
    ),
    "an empty text": (
        "filter_responses", changed("filter_responses", "text", to=""), "field text: is empty",
    ),
    "an unknown finish reason": (
        "filter_responses",
        changed("filter_responses", "finish_reason", to="tired"),
        "field finish_reason: ",
    ),
    "log-probs of another length": (
        "filter_responses",
        changed("filter_responses", "tokens", "logprobs", to=[-1.0]),
        f"field tokens.logprobs: 1 values for {len(TEXT)} tokens",
    ),
    "tokens that do not spell the text": (
        "filter_responses",
        changed("filter_responses", "text", to=TEXT + "s"),
        f"field tokens.num_bytes: sum to {len(TEXT)}, the text has {len(TEXT) + 1} bytes",
    ),
    "a prefix without its ids": (
        "filter_responses",
        changed("filter_responses", "student_prefix", to="So"),
        "field student_prefix_ids: ",
    ),
    "half a surrogate pair": (
        "filter_responses",
        changed("filter_responses", "model", to="m").replace('"m"', '"\\ud800"'),
        "field model: holds half a surrogate pair",
    ),
    "a conversation that ends with the assistant": (
        "make_prompts",
        changed("make_prompts", "messages", to=[{"role": "assistant", "content": "x"}]),
        "field messages: the last turn is assistant's",
    ),
    "an unknown role": (
        "make_prompts",
        changed("make_prompts", "messages", to=[{"role": "king", "content": "x"}]),
        "field messages.0.role: ",
    ),
    "a prompt without turns": (
        "make_prompts", changed("make_prompts", "messages", to=[]), "field messages: is empty",
    ),
    "a log-prob above 0": (
        "select_das",
        changed("select_das", "tokens", "logprobs", to=[0.5] * len(TEXT)),
        "prompt p0, candidate 0: field logprobs: hold a value that is above 0",
    ),
    "a log-prob that is no number": (
        "select_das",
        changed("select_das", "student_tokens", "logprobs", to=[math.nan] * (len(TEXT) + 1)),
        "field logprobs: hold a value that is above 0 or not finite",
    ),
    "a negative number of bytes": (
        "select_das",
        changed("select_das", "student_tokens", "num_bytes", to=[-1, 2] + [1] * (len(TEXT) - 1)),
        "field student_tokens.num_bytes: holds a negative value",
    ),
    "student tokens of another text": (
        "select_das",
        changed("select_das", "student_tokens", "num_bytes", to=[0] * (len(TEXT) + 1)),
        f"field num_bytes: sum to 0, the text has {len(TEXT)} bytes",
    ),
    "a text without the teacher's log-probs": (
        "select_das",
        changed("select_das", "tokens", to={"token_ids": [], "num_bytes": [], "logprobs": []}),
        "field tokens: is empty, this text came without log-probs",
    ),
    "spans of other content": (
        "select_das",
        changed("select_das", "text_spans", to=[{"start": 8, "end": 12}, {"start": 29, "end": 32}]),
        "field text_spans: hold other content than output_spans",
    ),
    "a response that has not been scored": (
        "select_das", changed("select_das", "student_tokens", to=...), "field student_tokens: ",
    ),
    "a response that has not been filtered": (
        "preprocess_data",
        changed("preprocess_data", "output", to=...),
        "field output: Field required",
    ),
    "a released text without its answer": (
        "import_responses", json.dumps(RELEASED | {"output": " "}), "field output: is empty",
    ),
    "a released text without its id": (
        "import_responses",
        json.dumps({k: v for k, v in RELEASED.items() if k != "input"}),
        "field input: is missing",
    ),
    "a chat that ends with the user": (
        "import_chat",
        json.dumps({"messages": [{"role": "user", "content": "q"}]}),
        "field messages: the last turn is user's",
    ),
    "a turn without content": (
        "import_chat",
        json.dumps({"messages": [{"role": "user"}, {"role": "assistant", "content": "a"}]}),
        "field messages.0.content: is empty",
    ),
}  # fmt: skip


def run(tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Run the stage's command; returns its status and the lines of its standard error."""
    capsys.readouterr()
    status = main([str(tmp_path / "pipeline.yaml"), "--run-dir", str(tmp_path / "run")])
    return status, capsys.readouterr().err.splitlines()


def set_up(tmp_path: Path, model_dir: Path, stage: str, **changes: Any) -> None:
    (tmp_path / "model").symlink_to(model_dir)
    plan = {"name": "bad", "run_dir": "run", "stages": {"stage": STAGES[stage] | changes}}
    (tmp_path / "pipeline.yaml").write_text(json.dumps(plan))
    write(tmp_path / "in.jsonl", [json.dumps(GOOD[stage])])


def write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines))


def refused(tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str], *told: str) -> None:
    """The run ends with one line that holds what is told, and leaves nothing behind."""
    inputs = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    status, errors = run(tmp_path, stage, capsys)
    assert status == 2
    assert len(errors) == 1, errors
    assert errors[0].startswith("error: stage stage: ")
    for what in told:
        assert what in errors[0]
    assert {p: p.read_bytes() for p in inputs} == inputs
    left = {p.name for p in (tmp_path / "run" / "stage").glob("*") if p.is_file()}
    assert left <= {"attempt.json", ".lock"}
    assert not (tmp_path / "run" / "stage" / MANIFEST).exists()


def accepted(tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, errors = run(tmp_path, stage, capsys)
    assert (status, errors) == (0, [])
    assert (tmp_path / "run" / "stage" / MANIFEST).exists()


@pytest.mark.parametrize("case", LINES)
def test_a_bad_line_is_told_by_file_record_and_field(
    case: str, tmp_path: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, line, told = LINES[case]
    set_up(tmp_path, model_dir, stage)
    good = (tmp_path / "in.jsonl").read_text().splitlines()
    write(tmp_path / "in.jsonl", [*good, line])
    refused(tmp_path, stage, capsys, f"{tmp_path / 'in.jsonl'}: record 2: ", told)
    write(tmp_path / "in.jsonl", good)
    accepted(tmp_path, stage, capsys)


def parquet(path: Path, rows: list[Row], record_type: type | None = None) -> None:
    table = to_table(record_type, rows, {}) if record_type else pa.Table.from_pylist(rows)
    pq.write_table(table, path)


def not_utf8(folder: Path) -> None:
    (folder / "in.jsonl").write_bytes(b'{"text": "\xff"}\n')


def cut_parquet(folder: Path) -> None:
    parquet(folder / "in.parquet", [response()], Response)
    (folder / "in.parquet").write_bytes((folder / "in.parquet").read_bytes()[:-100])


def missing_value(folder: Path) -> None:
    row = scored()
    row["tokens"]["logprobs"][3] = None
    parquet(folder / "in.parquet", [scored(), row], ScoredResponse)


def other_columns(folder: Path) -> None:
    parquet(folder / "in.parquet", [{"question": "q"}])


def logprobs_without_text(folder: Path) -> None:
    parquet(folder / "logprobs.parquet", [LOGPROBS, LOGPROBS | {"sample_uuid": "u9"}])


def logprobs_of_another_text(folder: Path) -> None:
    parquet(
        folder / "logprobs.parquet", [LOGPROBS | {"token_ids": [5] * 15, "logprobs": [-1.0] * 15}]
    )


def logprobs_without_column(folder: Path) -> None:
    parquet(folder / "logprobs.parquet", [{"sample_uuid": "u0", "token_ids": [1]}])


def damaged_datasets_folder(folder: Path) -> None:
    (folder / "saved").mkdir()
    (folder / "saved" / "state.json").write_text('{"_data_files": [{"filename": "gone.arrow"}]}')


JOIN = {"logprobs": ["logprobs.parquet"], "tokenizer": "model"}
#: name: (stage, changed settings, what makes the files, what is told)
FILES: dict[str, tuple[str, Row, Callable[[Path], None], list[str]]] = {
    "a file that is no UTF-8": (
        "filter_responses", {}, not_utf8, ["in.jsonl: record 1: not UTF-8 text"],
    ),
    "a Parquet file that is cut off": (
        "filter_responses", {"responses": ["in.parquet"]}, cut_parquet,
        ["in.parquet: not a readable Parquet file"],
    ),
    "a missing value in a list of numbers": (
        "select_das", {"responses": "in.parquet"}, missing_value,
        ["in.parquet: record 2: field tokens.logprobs.3: "],
    ),
    "a Parquet file of something else": (
        "select_das", {"responses": "in.parquet"}, other_columns,
        ["in.parquet: record 1: field prompt: Field required"],
    ),
    "log-probs without a text": (
        "import_responses", JOIN, logprobs_without_text,
        ["logprobs.parquet: record 2: field sample_uuid: u9: no text with this uuid"],
    ),
    "log-probs of another text": (
        "import_responses", JOIN, logprobs_of_another_text,
        ["logprobs.parquet: record 1: field token_ids: spell another thinking part"],
    ),
    "log-probs without their column": (
        "import_responses", JOIN, logprobs_without_column,
        ["logprobs.parquet: no column logprobs"],
    ),
    "a datasets folder with a file missing": (
        "import_responses", {"files": ["saved"]}, damaged_datasets_folder,
        ["saved/state.json: names gone.arrow, which is not there"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file_is_told_by_its_name(
    case: str, tmp_path: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, changes, make, told = FILES[case]
    set_up(tmp_path, model_dir, stage, **changes)
    make(tmp_path)
    refused(tmp_path, stage, capsys, *told)


def test_there_are_thirty_kinds() -> None:
    assert len(LINES) + len(FILES) >= 30


def test_set_aside_bad_records_are_kept_with_their_reasons(
    tmp_path: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [(line, told) for stage, line, told in LINES.values() if stage == "filter_responses"]
    set_up(tmp_path, model_dir, "filter_responses", on_malformed="set_aside")
    good = (tmp_path / "in.jsonl").read_text().splitlines()
    write(tmp_path / "in.jsonl", [*(line for line, _ in cases), *good])
    accepted(tmp_path, "filter_responses", capsys)
    aside = pq.read_table(tmp_path / "run" / "stage" / "set_aside-00000.parquet").to_pylist()
    assert [row["record"] for row in aside] == [line for line, _ in cases]
    for number, (row, (_, told)) in enumerate(zip(aside, cases, strict=True), start=1):
        assert f"in.jsonl: record {number}: " in row["reason"]
        assert told in row["reason"]
    kept = pq.read_table(tmp_path / "run" / "stage" / "part-00000.parquet")
    assert kept.num_rows == 1
    assert kept.schema.names == list(FilteredResponse.__dataclass_fields__)
    assert NORMALISED.open in kept["output"][0].as_py()
