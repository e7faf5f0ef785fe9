"""Stage import_responses: what is released, joined; other programs' files; what is refused."""

import json
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from math import log
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerBase

from megatron_dasd.config.sources import ImportResponses
from megatron_dasd.data.pieces import cut_file
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import Manifest
from megatron_dasd.records import Response
from megatron_dasd.records_io import read_records
from megatron_dasd.sources import joined, plain, responses
from megatron_dasd.sources.given_tokens import tokens_of_text
from megatron_dasd.text.encoding import encode, load_tokenizer, token_bytes
from tests.real_tokenizers import tokenizer_folder

RunStage = Callable[..., Manifest]


def settings(**changes: object) -> ImportResponses:
    given = {"kind": "import_responses", "files": ["files"], "temperature": 0.6}
    return ImportResponses(**(given | changes))  # type: ignore[arg-type]


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def stage_records(tmp_path: Path) -> list[Response]:
    return list(read_records(tmp_path / "stage", Response))


# -- what is released ------------------------------------------------------------------------------


def released(number: int, question: str, thinking: str, answer: str) -> dict[str, str]:
    return {
        "uuid": f"id-{number}",
        "input": question,
        "output": f"<think>\n{thinking}\n</think>\n\n{answer}",
        "domain": "math",
        "meta": "{}",
    }


def harmony_ids(tokenizer: PreTrainedTokenizerBase, row: dict[str, str]) -> list[int]:
    thinking, answer = row["output"].removeprefix("<think>\n").split("\n</think>\n\n")
    text = f"<|channel|>analysis<|message|>{thinking}<|end|><|start|>assistant"
    return encode(tokenizer, f"{text}<|channel|>final<|message|>{answer}<|return|>")


def logprob_row(tokenizer: PreTrainedTokenizerBase, row: dict[str, str]) -> dict[str, Any]:
    ids = harmony_ids(tokenizer, row)
    values = [log(0.5) / (1 + place) for place in range(len(ids))]
    return {"sample_uuid": row["uuid"], "token_ids": ids, "logprobs": values}


ROWS = [
    released(0, "1 + 1?", "Two, said 日本 😀. ", "2"),
    released(1, "2 + 2?", "Größe: four.", "It is 4.\n"),
    released(2, "1 + 1?", "Again two.", "2!"),
]


@pytest.fixture
def join_inputs(
    tmp_path: Path, gptoss: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Path]:
    """Texts in one order, their log-probs in another; the tokenizer is loaded once for all."""
    monkeypatch.setattr(responses, "load_tokenizer", lambda path: gptoss)
    rows = [logprob_row(gptoss, row) for row in ROWS]
    pq.write_table(pa.Table.from_pylist([rows[2], rows[0], rows[1]]), tmp_path / "logprobs.parquet")
    return {
        "files": write_lines(tmp_path / "texts.jsonl", ROWS),
        "logprobs": tmp_path / "logprobs.parquet",
        "tokenizer": tokenizer_folder("gptoss"),
    }


JOIN = {"format": "superior-reasoning", "logprobs": ["logprobs"], "tokenizer": "tokenizer"}


def test_texts_and_logprobs_are_joined_by_their_ids(
    run_stage: RunStage,
    join_inputs: dict[str, Path],
    gptoss: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    manifest = run_stage(responses.run, settings(**JOIN), join_inputs)
    assert manifest.counts == {"imported": 3}
    records = stage_records(tmp_path)
    assert [r.text for r in records] == [ROWS[n]["output"] for n in (2, 0, 1)]
    # candidates are counted in the order of the texts
    assert [r.candidate for r in records] == [1, 0, 0]
    assert records[0].prompt == records[1].prompt
    assert records[0].prompt.prompt_id != records[2].prompt.prompt_id
    assert {(r.temperature, r.finish_reason, r.prompt.domain) for r in records} == {
        (0.6, "stop", "math")
    }
    for record, number in zip(records, (2, 0, 1), strict=True):
        ids = harmony_ids(gptoss, ROWS[number])
        assert record.tokens.token_ids == ids
        # the tokens of the content have their own bytes, in order
        thinking = parts_of(ROWS[number])[0]
        first = ids.index(200008) + 1  # after <|message|>
        last = ids.index(200007)  # <|end|>
        assert sum(record.tokens.num_bytes[:first]) == len("<think>\n")
        assert record.tokens.num_bytes[first] == len(token_bytes(gptoss, ids[first : first + 1])[0])
        assert sum(record.tokens.num_bytes[first:last]) == len(thinking.rstrip().encode())


def parts_of(row: dict[str, str]) -> list[str]:
    return row["output"].removeprefix("<think>\n").split("\n</think>\n\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"token_ids": [1, 2]},
            "logprobs.parquet: record 1: field logprobs: 15 values for 2 tokens",
        ),
        ({"sample_uuid": "id-9"}, "field sample_uuid: id-9: no text with this uuid, or twice"),
        ({"logprobs": None}, "field logprobs: has no value"),
        ({"logprobs": [0.5]}, "field logprobs: 1 values for 15 tokens"),
        ({"token_ids": [999_999], "logprobs": [-1.0]}, "outside the vocabulary of 200019"),
        ({"token_ids": [5], "logprobs": [0.5]}, "field logprobs: a value is above 0"),
        ({"token_ids": [5], "logprobs": [-0.5]}, "field token_ids: spell another thinking part"),
    ],
)
def test_logprobs_that_do_not_fit_are_told_of(
    run_stage: RunStage,
    join_inputs: dict[str, Path],
    change: dict[str, Any],
    message: str,
) -> None:
    rows = pq.read_table(join_inputs["logprobs"]).to_pylist()
    rows[0] |= change
    pq.write_table(pa.Table.from_pylist(rows), join_inputs["logprobs"])
    with pytest.raises(UserError, match=message):
        run_stage(responses.run, settings(**JOIN), join_inputs)
    aside = run_stage(responses.run, settings(**JOIN, on_malformed="set_aside"), join_inputs)
    # a text whose log-probs bear another id is left without any
    lost = 1 + ("sample_uuid" in change)
    assert aside.counts == {"imported": 2, "malformed": lost}


def test_a_restart_goes_on(
    run_stage: RunStage,
    join_inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(responses, "PART_RECORDS", 1)
    whole = run_stage(responses.run, settings(**JOIN), join_inputs)
    for part in ("part-00001.parquet", "manifest.json"):
        (tmp_path / "stage" / part).unlink()
    assert run_stage(responses.run, settings(**JOIN), join_inputs).digest == whole.digest


def test_without_logprobs_the_tokens_are_left_open(run_stage: RunStage, tmp_path: Path) -> None:
    inputs = {"files": write_lines(tmp_path / "texts.jsonl", ROWS)}
    run_stage(responses.run, settings(format="superior-reasoning"), inputs)
    records = stage_records(tmp_path)
    assert [(r.candidate, r.tokens.token_ids) for r in records] == [(0, []), (0, []), (1, [])]


# -- tokens and texts ------------------------------------------------------------------------------


def test_delimiters_as_written_take_the_place_of_those_sampled() -> None:
    pieces = [b"", b"analysis", b"", b"Two", b" two", b"", b"assistant", b"final", b"", b"4", b""]
    text = "<think>\nTwo two\n</think>\n\n4\n"
    tokens = tokens_of_text(text, pieces, range(11), [-1.0] * 11)
    #                          <think>\n              \n</think>\n\n   4  \n
    assert tokens.num_bytes == [0, 0, 8, 3, 4, 0, 0, 0, 11, 1, 1]


def test_tokens_that_spell_the_text_stay_as_they_are() -> None:
    pieces = [b"<think>\na", b"\n</think>\n\nb"]
    tokens = tokens_of_text("<think>\na\n</think>\n\nb", pieces, [1, 2], [-1.0, -2.0])
    assert tokens.num_bytes == [9, 12]


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([b"x", b"other", b"4"], "another thinking part"),
        ([b"x", b"Two", b"5"], "another answer"),
        ([b"Two", b"x", b"4"], "no token before the thinking part"),
    ],
)
def test_tokens_of_another_text_are_refused(pieces: list[bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokens_of_text("<think>\nTwo\n</think>\n\n4", pieces, [1, 2, 3], [-1.0] * 3)


# -- other programs' files -------------------------------------------------------------------------

CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def test_messages_and_columns(run_stage: RunStage, tmp_path: Path) -> None:
    reasoning = {"role": "assistant", "content": "4", "reasoning_content": "two and two"}
    rows = [CHAT, {"messages": [{"role": "user", "content": "q"}, reasoning], "domain": "sums"}]
    inputs = {"files": write_lines(tmp_path / "a.jsonl", rows)}
    run_stage(responses.run, settings(format="messages"), inputs)
    found = [(r.text, r.candidate, r.prompt.domain) for r in stage_records(tmp_path)]
    assert found == [("a", 0, "unknown"), ("<think>\ntwo and two\n</think>\n\n4", 1, "sums")]

    table = pa.Table.from_pylist(
        [
            {"id": 7, "q": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
             "a": "x"},
        ]
    )  # fmt: skip
    pq.write_table(table, tmp_path / "b.parquet")
    given = settings(
        format="prompt-response", prompt_field="q", response_field="a", id_field="id", model="m"
    )
    run_stage(responses.run, given, {"files": tmp_path / "b.parquet"})
    (record,) = stage_records(tmp_path)
    assert [m.role for m in record.prompt.messages] == ["system", "user"]
    assert (record.prompt.prompt_id, record.text, record.model) == ("7", "x", "m")


def save_to_disk(folder: Path, rows: list[dict[str, Any]], num_files: int = 2) -> Path:
    """As ``datasets``' ``save_to_disk`` writes a data set."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05d}-of-{num_files:05d}.arrow" for n in range(num_files)]
    for number, name in enumerate(names):
        table = pa.Table.from_pylist(rows[number::num_files])
        with (
            pa.OSFile(str(folder / name), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as out,
        ):
            out.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_folders_of_datasets(run_stage: RunStage, tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "response": f"a{n}"} for n in range(5)]
    inputs = {"files": save_to_disk(tmp_path / "one", rows)}
    run_stage(responses.run, settings(format="prompt-response"), inputs)
    assert [r.text for r in stage_records(tmp_path)] == ["a0", "a2", "a4", "a1", "a3"]

    save_to_disk(tmp_path / "dict" / "train", rows[:2], 1)
    save_to_disk(tmp_path / "dict" / "test", rows[2:], 1)
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    given = settings(format="prompt-response")
    run_stage(responses.run, given, {"files": tmp_path / "dict"}, name="both")
    found = [(r.text, r.prompt.split) for r in read_records(tmp_path / "both", Response)]
    assert found == [("a0", "train"), ("a1", "train")] + [(f"a{n}", "heldout") for n in (2, 3, 4)]


def test_a_question_is_in_one_split_only(run_stage: RunStage, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    write_lines(tmp_path / "d" / "train.jsonl", [CHAT])
    test = write_lines(tmp_path / "d" / "validation.jsonl", [CHAT])
    with pytest.raises(UserError) as caught:
        run_stage(responses.run, settings(format="messages"), {"files": tmp_path / "d"})
    reason = "the same question is in a file of the split train too"
    assert str(caught.value).startswith(f"{test}: record 1: {reason};")


@pytest.mark.parametrize("num_workers", [2, 3])
def test_any_number_of_processes_gives_the_same_bytes(
    run_stage: RunStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    """Candidates of one prompt lie in several shards, and a question in both splits."""
    monkeypatch.setattr(plain, "SHARD_BYTES", 200)
    monkeypatch.setattr(plain, "cut_file", partial(cut_file, piece_bytes=200))
    rows = [{"q": f"q{n % 7}", "a": [f"a{n}", f"b{n}"][: 1 + n % 2]} for n in range(60)]
    rows[40] |= {"a": ""}  # malformed
    (tmp_path / "d").mkdir()
    table = pa.Table.from_pylist([{"q": r["q"], "a": list(r["a"])} for r in rows[:30]])
    pq.write_table(table, tmp_path / "d" / "train-1.parquet", row_group_size=8)
    write_lines(tmp_path / "d" / "train-2.jsonl", rows[30:])
    write_lines(tmp_path / "d" / "validation.jsonl", [rows[3], {"q": "new", "a": "x"}])
    columns = {"prompt_field": "q", "response_field": "a", "on_malformed": "set_aside"}
    inputs = {"files": tmp_path / "d"}
    expected = run_stage(responses.run, settings(**columns, num_workers=1), inputs, name="one")
    assert expected.counts == {"imported": 90, "malformed": 2}
    given = settings(**columns, num_workers=num_workers)
    found = run_stage(responses.run, given, inputs, name="many")
    assert (found.files, found.counts) == (expected.files, expected.counts)
    assert sum(name.startswith("part-") for name in found.files) >= 5
    keys = [record.key for record in read_records(tmp_path / "many", Response)]
    assert len(set(keys)) == len(keys)
    by_prompt = Counter(prompt_id for prompt_id, _, _ in keys)
    assert all(candidate < by_prompt[prompt_id] for prompt_id, _, candidate in keys)


def test_one_id_of_two_questions_is_told_of_with_both_places(
    run_stage: RunStage, tmp_path: Path
) -> None:
    rows = [{"id": 1, "q": "a", "a": "x"}, {"id": 2, "q": "b", "a": "x"}]
    first = write_lines(tmp_path / "a.jsonl", rows)
    second = write_lines(tmp_path / "b.jsonl", [rows[0], {"id": 2, "q": "c", "a": "x"}])
    given = settings(files=["a", "b"], prompt_field="q", response_field="a", id_field="id")
    with pytest.raises(UserError) as caught:
        run_stage(responses.run, given, {"a": first, "b": second})
    told = (
        f"{second}: record 2: field prompt_id: '2' belongs to two questions, the other in {first}"
    )
    assert str(caught.value).startswith(f"{told}: record 2; number the prompts")


def test_the_memory_of_a_join_does_not_grow_with_the_tokens(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined, "_BATCH_ROWS", 2)
    num_rows, num_tokens = 24, 20_000
    chance = random.Random(0)
    schema = pa.schema(
        [("sample_uuid", pa.string()), ("token_ids", pa.list_(pa.int64())),
         ("logprobs", pa.list_(pa.float64()))]
    )  # fmt: skip
    texts = []
    with pq.ParquetWriter(tmp_path / "logprobs.parquet", schema) as writer:
        for number in range(num_rows):
            thinking = "".join(chance.choices("abcdefgh", k=num_tokens))
            row = released(number, f"q{number}", thinking, "a")
            ids = [3] + [3 + ord(c) - ord("a") for c in thinking] + [4, 3]
            logprobs = {"sample_uuid": row["uuid"], "token_ids": ids, "logprobs": [-1.0] * len(ids)}
            writer.write_table(pa.Table.from_pylist([logprobs], schema=schema))
            texts.append(row)
    inputs = {
        "files": write_lines(tmp_path / "texts.jsonl", texts[::-1]),
        "logprobs": tmp_path / "logprobs.parquet",
        "tokenizer": model_dir,
    }
    before = pa.total_allocated_bytes()
    made = iter(joined_rows(inputs))
    largest = 0
    for row in made:
        row.make()
        largest = max(largest, pa.total_allocated_bytes() - before)
    assert 0 < largest < num_rows * num_tokens * 16 / 4  # 16 bytes a token; a sixth was measured


def joined_rows(inputs: dict[str, Path]) -> Any:
    return joined.Joined(
        settings(**JOIN),
        [inputs["files"]],
        [inputs["logprobs"]],
        load_tokenizer(inputs["tokenizer"]),
    ).rows()
