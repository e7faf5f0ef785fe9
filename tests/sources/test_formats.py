"""Every format that users' files have: four right rows exact, the bad one named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_dasd.config.formats import PRESETS
from megatron_dasd.config.sources import ImportResponses, MakePrompts
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import Manifest, read_manifest
from megatron_dasd.records import Prompt, Response
from megatron_dasd.records_io import read_records
from megatron_dasd.sources import prompts, responses

RunStage = Callable[..., Manifest]
Row = dict[str, Any]


def chat(question: object, answer: object, **more: Any) -> list[Row]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer} | more]


def sharegpt(question: object, answer: object) -> list[Row]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def chatml(*turns: tuple[str, str]) -> str:
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)


def llama(*turns: tuple[str, str]) -> str:
    header = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>"
    return "<|begin_of_text|>" + "".join(header.format(*turn) for turn in turns)


def harmony(question: str, thinking: str, answer: str) -> str:
    return (
        "<|start|>system<|message|>You are ChatGPT.\nReasoning: low<|end|>"
        "<|start|>developer<|message|># Instructions\n\nBe brief.<|end|>"
        f"<|start|>user<|message|>{question}<|end|>"
        f"<|start|>assistant<|channel|>analysis<|message|>{thinking}<|end|>"
        f"<|start|>assistant<|channel|>final<|message|>{answer}<|return|>"
    )


def think(thinking: str, answer: str) -> str:
    return f"<think>\n{thinking}\n</think>\n\n{answer}"


def turns_of(response: Response) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in response.prompt.messages]


USER, SYSTEM = "user", "system"
ASKED = [(USER, "q")]

#: preset: (four right rows, what each becomes: the prompt's turns and the responses; a bad row,
#: what is said of it)
FORMATS: dict[str, tuple[list[Row], list[tuple[list[tuple[str, str]], list[str]]], Row, str]] = {
    "messages": (
        [
            {"messages": chat("q", "a\r\nb")},
            {"messages": chat("q", "4", reasoning_content="two and two")},
            {"messages": [{"role": "system", "content": "s"}, *chat("q", "a", reasoning=None)]},
            {"messages": chat([{"type": "text", "text": "q"}, {"type": "text", "text": "!"}], "a")},
        ],
        [
            (ASKED, ["a\r\nb"]),
            (ASKED, [think("two and two", "4")]),
            ([(SYSTEM, "s"), (USER, "q")], ["a"]),
            ([(USER, "q!")], ["a"]),
        ],
        {"messages": chat([{"type": "image_url", "image_url": {"url": "x"}}], "a")},
        "field messages.0.content.0: only text can be imported, not image_url",
    ),
    "sharegpt": (
        [
            {"conversations": sharegpt("q", "a")},
            {"conversations": sharegpt("q", "a"), "system": "s"},
            {"conversations": [{"from": "system", "value": "s"}, *sharegpt("q", "a")]},
            {"conversations": [*sharegpt("q", "a"), *sharegpt("r", "b")]},
        ],
        [
            (ASKED, ["a"]),
            ([(SYSTEM, "s"), (USER, "q")], ["a"]),
            ([(SYSTEM, "s"), (USER, "q")], ["a"]),
            ([(USER, "q"), ("assistant", "a"), (USER, "r")], ["b"]),
        ],
        {"conversations": [{"from": "king", "value": "q"}]},
        "field conversations.0.role: unknown role 'king'",
    ),
    "alpaca": (
        [
            {"instruction": "Sum it up.", "input": "Bears sleep.", "output": "a"},
            {"instruction": "q", "input": "", "output": "a"},
            {"instruction": "q", "input": None, "output": "a"},
            {"instruction": "q", "output": "a", "system": "s"},
        ],
        [
            ([(USER, "Sum it up.\n\nBears sleep.")], ["a"]),
            (ASKED, ["a"]),
            (ASKED, ["a"]),
            ([(SYSTEM, "s"), (USER, "q")], ["a"]),
        ],
        {"instruction": "q", "input": 3, "output": "a"},
        "field input: is no text",
    ),
    "prompt-response": (
        [
            {"prompt": "q", "response": "a"},
            {"prompt": "q", "response": "a", "reasoning_content": "r"},
            {"prompt": "q", "response": "a", "reasoning": "off"},
            {"prompt": [{"role": "user", "content": "q"}], "response": ["a", "b"]},
        ],
        [(ASKED, ["a"]), (ASKED, [think("r", "a")]), (ASKED, ["a"]), (ASKED, ["a", "b"])],
        {"prompt": "q", "response": ["a", None]},
        "field response.1: is missing",
    ),
    "prompt-completion": (
        [{"prompt": "q", "completion": "a"}] * 3
        + [{"prompt": chat("q", "a")[:1], "completion": chat("q", "a")[1:]}],
        [(ASKED, ["a"])] * 4,
        {"prompt": "q", "completion": chat("q", "a")[:1]},
        "field completion: the last turn is user's, not assistant's",
    ),
    "superior-reasoning": (
        [{"uuid": str(n), "input": "q", "output": think("t", "a")} for n in range(4)],
        [(ASKED, [think("t", "a")])] * 4,
        {"uuid": "9", "input": "q", "output": " "},
        "field output: is empty",
    ),
    "s1k": (
        [{"question": "q", "thinking_trajectories": ["t"], "attempt": "a", "cot": None}] * 4,
        [(ASKED, [think("t", "a")])] * 4,
        {"question": "q", "thinking_trajectories": ["t", "u"], "attempt": "a"},
        "field thinking_trajectories: 2 values for 1 responses",
    ),
    "s1k-deepseek": (
        [{"question": "q", "deepseek_thinking_trajectory": "t", "deepseek_attempt": "a"}] * 4,
        [(ASKED, [think("t", "a")])] * 4,
        {"question": "q", "deepseek_thinking_trajectory": "t", "deepseek_attempt": think("u", "a")},
        "field deepseek_thinking_trajectory: a thinking part beside the one in deepseek_attempt",
    ),
    "openthoughts": (
        [{"problem": "q", "deepseek_reasoning": "t", "deepseek_solution": "a"}] * 4,
        [(ASKED, [think("t", "a")])] * 4,
        {"problem": "q", "deepseek_reasoning": 1, "deepseek_solution": "a"},
        "field deepseek_reasoning: expected a text, not int",
    ),
    "openr1": (
        [{"problem": "q", "generations": ["a", "b"], "finish_reasons": ["stop", None]}] * 4,
        [(ASKED, ["a", "b"])] * 4,
        {"problem": "q", "generations": ["a"], "finish_reasons": ["tired"]},
        "field finish_reason: 'tired' is no end that is known (stop, length)",
    ),
    "rendered-text": (
        [
            {"text": chatml((SYSTEM, "s"), (USER, "q\n"), ("assistant", think("t", "a")))},
            {"text": llama((USER, "q"), ("assistant", "a"))},
            {"text": harmony("q", "t", "a")},
            {"text": chatml((USER, "q"), ("assistant", "a"), (USER, "r"), ("assistant", "b"))},
        ],
        [
            ([(SYSTEM, "s"), (USER, "q\n")], [think("t", "a")]),
            (ASKED, ["a"]),
            ([(SYSTEM, "Be brief."), (USER, "q")], [think("t", "a")]),
            ([(USER, "q"), ("assistant", "a"), (USER, "r")], ["b"]),
        ],
        {"text": "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\ncut o"},
        "field text: turn 1 lacks <|im_end|>, as a text that was cut off",
    ),
}


def settings(**changes: Any) -> ImportResponses:
    return ImportResponses(
        **({"kind": "import_responses", "files": ["files"], "temperature": 1.0} | changes)
    )


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_right_rows_are_exact_and_a_bad_row_is_named(
    name: str, run_stage: RunStage, tmp_path: Path
) -> None:
    rows, expected, bad, reason = FORMATS[name]
    file = write_lines(tmp_path / "data.jsonl", [*rows[:2], bad, *rows[2:]])
    given = settings(format=name, on_malformed="set_aside")
    manifest = run_stage(responses.run, given, {"files": file})
    found = list(read_records(tmp_path / "stage", Response))
    flat = [(turns, text) for turns, texts in expected for text in texts]
    assert [(turns_of(r), r.text) for r in found] == flat
    assert manifest.counts == {"imported": len(flat), "malformed": 1}
    with pytest.raises(UserError) as caught:
        run_stage(responses.run, settings(format=name), {"files": file}, name="again")
    stopped = f"{file}: record 3: {reason}; fix the record, or set on_malformed: set_aside"
    assert str(caught.value) == stopped


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_does_not_fit_names_its_format(
    name: str, run_stage: RunStage, tmp_path: Path
) -> None:
    row = FORMATS[name][0][0]
    file = write_lines(tmp_path / "data.jsonl", [row])
    with pytest.raises(UserError, match=rf"record 1: field Question: .* those of format: {name};"):
        run_stage(responses.run, settings(format="medical-o1"), {"files": file})
    # and without a format it is read by its own
    run_stage(responses.run, settings(), {"files": file}, name="own")
    assert next(read_records(tmp_path / "own", Response)).prompt.messages[-1].role == "user"


def test_what_the_detector_cannot_decide(run_stage: RunStage, tmp_path: Path) -> None:
    both = {f"{who}_{what}": "x" for who in ("deepseek", "gemini") for what in ("attempt",)}
    both |= {f"{who}_thinking_trajectory": "x" for who in ("deepseek", "gemini")}
    for row, told in (
        ({"question": "q"} | both, "are those of s1k-deepseek and s1k-gemini; set format"),
        ({"foo": 1}, "record 1: the fields foo are those of no format that is known; set format"),
    ):
        file = write_lines(tmp_path / "data.jsonl", [row])
        with pytest.raises(UserError, match=told):
            run_stage(responses.run, settings(), {"files": file})


def test_a_name_that_differs_in_case_is_shown(run_stage: RunStage, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "data.jsonl", [{"Prompt": "q", "response": "a"}])
    with pytest.raises(UserError, match="field prompt: is missing; the row has Prompt;"):
        run_stage(responses.run, settings(format="prompt-response"), {"files": file})


def test_columns_by_the_settings(run_stage: RunStage, tmp_path: Path) -> None:
    row = {"q": "x", "more": "y", "t": "z", "a": "w", "reasoning": "no", "n": 7.0, "topic": "sums"}
    file = write_lines(tmp_path / "data.jsonl", [row])
    columns = {"prompt_field": "q", "input_field": "more", "thinking_field": "t"}
    given = settings(**columns, response_field="a", id_field="n", domain_field="topic")
    manifest = run_stage(responses.run, given, {"files": file})
    (record,) = read_records(tmp_path / "stage", Response)
    assert (turns_of(record), record.text) == ([(USER, "x\n\ny")], think("z", "w"))
    assert (record.prompt.prompt_id, record.prompt.domain) == ("7", "sums")
    assert manifest.figures["fields_not_read"] == {"reasoning": 1}
    # an empty name takes a format's column away
    given = settings(format="prompt-response", thinking_field="", system_field="")
    row = {"prompt": "q", "response": "a", "reasoning": "r", "system": "s"}
    run_stage(responses.run, given, {"files": write_lines(file, [row])}, name="fewer")
    (record,) = read_records(tmp_path / "fewer", Response)
    assert (turns_of(record), record.text) == (ASKED, "a")


def test_fields_that_are_not_read_are_listed_once(
    run_stage: RunStage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"messages": chat("q", str(n), audio_id=n), "score": None} for n in range(3)]
    rows[1]["score"] = 0.5
    file = write_lines(tmp_path / "data.jsonl", rows)
    run_stage(responses.run, settings(format="messages"), {"files": file})
    said = "fields that are not read: messages.audio_id (2), score (1)\n"
    assert capsys.readouterr().out.count(said) == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": chat("q", "a", weight=0)}, "messages.1: says that the last turn does"),
        ({"messages": chat("q", "a"), "images": ["x"]}, "field images: only text can be imported"),
        ({"messages": chat("q", "a", audio={"id": 1})}, "field messages.1.audio: only text"),
        ({"messages": chat("q", None)}, "field messages.1.content: is empty"),
        ({"messages": "[1, 2"}, "field messages: expected a text or a list of turns"),
        ({"messages": chat("q", "a"), "finish_reason": "content_filter"}, "field finish_reason: "),
    ],
)
def test_what_changes_a_rows_meaning_is_refused(
    row: Row, reason: str, run_stage: RunStage, tmp_path: Path
) -> None:
    file = write_lines(tmp_path / "data.jsonl", [row])
    with pytest.raises(UserError, match=rf"record 1: .*{reason}"):
        run_stage(responses.run, settings(format="messages"), {"files": file})


def test_why_a_response_ends(run_stage: RunStage, tmp_path: Path) -> None:
    reasons = ["length", "stop", "max_tokens", "end_turn", None]
    rows = [{"messages": chat("q", "a"), "finish_reason": reason} for reason in reasons]
    file = write_lines(
        tmp_path / "data.jsonl", [*rows, {"messages": chat("q", "a", finish_reason="length")}]
    )
    run_stage(responses.run, settings(format="messages"), {"files": file})
    found = [r.finish_reason for r in read_records(tmp_path / "stage", Response)]
    assert found == ["length", "stop", "length", "stop", "stop", "length"]


def test_thoughts_between_marks_of_their_own(run_stage: RunStage, tmp_path: Path) -> None:
    text = (
        "<|begin_of_thought|>\n\nt\n\n<|end_of_thought|>\n\n"
        "<|begin_of_solution|>\n\na\n\n<|end_of_solution|>"
    )
    file = write_lines(tmp_path / "data.jsonl", [{"conversations": sharegpt("q", text)}])
    run_stage(responses.run, settings(), {"files": file})
    assert next(read_records(tmp_path / "stage", Response)).text == think("t", "a")


def test_columns_of_parquet(run_stage: RunStage, tmp_path: Path) -> None:
    table = pa.table(
        {
            "conversations": pa.array([{"from": ["human", "gpt"], "value": ["q", "a"]}]),
            "domain": pa.array(["math"]).dictionary_encode(),
            "id": pa.array([1.0]),
            "made": pa.array([[1700000000123456789]], pa.list_(pa.timestamp("ns"))),
        }
    )
    pq.write_table(table, tmp_path / "data.parquet")
    given = settings(format="messages", id_field="id")
    with pytest.raises(UserError, match="field messages: is missing; .* format: sharegpt"):
        run_stage(responses.run, given, {"files": tmp_path / "data.parquet"})
    given = settings(id_field="id")
    run_stage(responses.run, given, {"files": tmp_path / "data.parquet"})
    (record,) = read_records(tmp_path / "stage", Response)
    assert (turns_of(record), record.text, record.prompt.prompt_id) == (ASKED, "a", "1")
    assert record.prompt.domain == "math"


def test_one_id_for_two_questions(run_stage: RunStage, tmp_path: Path) -> None:
    first = write_lines(tmp_path / "a.jsonl", [{"id": 0, "messages": chat("q", "a")}] * 2)
    second = write_lines(tmp_path / "b.jsonl", [{"id": "0", "messages": chat("r", "a")}])
    given = settings(format="messages", id_field="id", files=["a", "b"], on_malformed="set_aside")
    with pytest.raises(UserError) as caught:
        run_stage(responses.run, given, {"a": first, "b": second})
    assert str(caught.value).startswith(
        f"{second}: record 1: field prompt_id: '0' belongs to two questions, "
        f"the other in {first}: record 1;"
    )


def test_prompts_of_other_programs_files(run_stage: RunStage, tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", "answer": n, "id": n} for n in range(4)]
    (tmp_path / "d").mkdir()
    write_lines(tmp_path / "d" / "train.jsonl", rows[:3])
    write_lines(tmp_path / "d" / "test.jsonl", rows[3:])
    asked = MakePrompts(
        kind="make_prompts",
        files=["d"],
        format="question-answer",
        id_field="id",
        reference_answer_field="answer",
        grader="exact",
        heldout_fraction=0.0,
    )
    run_stage(prompts.run, asked, {"d": tmp_path / "d"})
    found = list(read_records(tmp_path / "stage", Prompt))
    shown = {(p.prompt_id, p.messages[0].content, p.reference_answer, p.split) for p in found}
    assert shown == {(str(n), f"q{n}", str(n), "train" if n < 3 else "heldout") for n in range(4)}
    assert {p.grader for p in found} == {"exact"}
    write_lines(tmp_path / "d" / "test.jsonl", [{"question": ["q"]}])
    with pytest.raises(UserError, match=r"test.jsonl: record 1: field question.0: a turn is no ob"):
        run_stage(prompts.run, asked, {"d": tmp_path / "d"})


def test_files_without_a_pipeline(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "data.jsonl", [{"prompt": "q", "response": "a"}])
    given = settings(files=[str(file)])
    folder = responses.import_files(given, tmp_path / "records")
    assert [r.text for r in read_records(folder, Response)] == ["a"]
    before = (folder / "manifest.json").stat().st_mtime_ns
    responses.import_files(given, folder)
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    write_lines(file, [{"prompt": "q", "response": "b"}])
    responses.import_files(given, folder)
    assert [r.text for r in read_records(folder, Response)] == ["b"]
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest.counts == {"imported": 1}


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="no format jsonl .there are: messages, sharegpt"):
        settings(format="jsonl")
    assert set(FORMATS) < set(PRESETS)
