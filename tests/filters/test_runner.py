"""Stage filter_responses: each response kept or under one reason, and the same after a restart."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from megatron_dasd.config.base import ThinkingFormat
from megatron_dasd.config.selection import FilterResponses
from megatron_dasd.data.pieces import cut_file
from megatron_dasd.errors import UserError
from megatron_dasd.filters import runner, token_counter
from megatron_dasd.filters.runner import run
from megatron_dasd.manifests import Manifest
from megatron_dasd.records import FilteredResponse, Prompt, Response, Span
from megatron_dasd.records_io import read_records, to_table
from megatron_dasd.text.bulk import BulkEncoder, ExactnessError
from tests.benchmarks import published

GOOD = "We add. Answer: five"
OUTPUT = "<think>\nWe add.\n</think>\n\nfive"
# <|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n: three special tokens, the rest bytes
PROMPT_TOKENS = 3 + len("user\nq\nassistant\n")
RESPONSE_TOKENS = len(OUTPUT) + 1


def settings(**changes: object) -> FilterResponses:
    given = {
        "kind": "filter_responses",
        "responses": ["a", "b"],
        "student": "student",
        "thinking": ThinkingFormat(open="", close=" Answer: "),
        "max_length": PROMPT_TOKENS + RESPONSE_TOKENS,
    }
    return FilterResponses(**(given | changes))  # type: ignore[arg-type]


@pytest.fixture
def inputs(
    make_prompt: Callable[..., Prompt],
    make_response: Callable[..., Response],
    write_records: Callable[..., Path],
    model_dir: Path,
) -> dict[str, Path]:
    """Two folders, three parts in all."""
    first = [
        make_response(GOOD, candidate=0),
        make_response(GOOD, candidate=1),
        make_response(GOOD, candidate=2, temperature=0.6),
        make_response(GOOD + "s", candidate=3),
        make_response("We add.", candidate=4),
    ]
    second = [
        make_response(GOOD, candidate=5),
        make_response("We. Answer: 5", candidate=6, finish_reason="length"),
        make_response(GOOD, prompt=make_prompt("p1")),
    ]
    third = [
        make_response("two. Answer: 4", student_prefix="<think>\na ", student_prefix_ids=[3, 4])
    ]
    return {
        "a": write_records("a", [first, second]),
        "b": write_records("b", [third]),
        "student": model_dir,
    }


def test_every_response_is_kept_or_dropped_under_one_reason(
    run_stage: Callable[..., Manifest], inputs: dict[str, Path], tmp_path: Path
) -> None:
    manifest = run_stage(run, settings(), inputs)
    assert manifest.counts == {
        "kept": 4,
        "kept T=0.6": 1,
        "kept T=1": 3,
        "dropped: duplicate": 2,
        "dropped: length": 1,
        "dropped: structure": 1,
        "dropped: truncation": 1,
        "dropped T=1": 5,
    }
    assert manifest.figures["kept_share"] == 4 / 9
    dropped = {name: count for name, count in manifest.figures["dropped"].items() if count}
    assert dropped == {"truncation": 1, "structure": 1, "length": 1, "duplicate": 2}
    kept = [
        [(r.prompt.prompt_id, r.candidate) for r in read_records(part, FilteredResponse)]
        for part in sorted((tmp_path / "stage").glob("part-*.parquet"))
    ]
    assert kept == [[("p0", 0), ("p0", 2)], [("p1", 0)], [("p0", 0)]]
    aside = pq.read_table(tmp_path / "stage" / "set_aside-00000.parquet").to_pylist()
    found = [(row["reason"], json.loads(row["record"])["candidate"]) for row in aside]
    assert found == [("duplicate", 1), ("length", 3), ("structure", 4)]


def test_what_is_kept_carries_the_normalised_output(
    run_stage: Callable[..., Manifest], inputs: dict[str, Path], tmp_path: Path
) -> None:
    run_stage(run, settings(), inputs)
    records = list(read_records(tmp_path / "stage", FilteredResponse))
    assert records[0].output == OUTPUT
    assert records[0].output_spans == [Span(start=8, end=15), Span(start=26, end=30)]
    assert records[0].text_spans == [Span(start=0, end=7), Span(start=16, end=20)]
    continuation = records[3]
    assert continuation.output == "<think>\na two.\n</think>\n\n4"
    assert continuation.output.startswith(continuation.student_prefix)
    assert continuation.text_spans == []


def test_the_system_prompt_counts_towards_the_length(
    run_stage: Callable[..., Manifest], inputs: dict[str, Path]
) -> None:
    system = "<|im_start|>system\ns<|im_end|>\n"
    added = 2 + len(system) - len("<|im_start|><|im_end|>")
    enough = PROMPT_TOKENS + RESPONSE_TOKENS + added
    wide = run_stage(run, settings(system_prompt="s", max_length=enough), inputs, name="wide")
    tight = run_stage(run, settings(system_prompt="s", max_length=enough - 1), inputs, name="tight")
    assert wide.counts["dropped: length"] == 1
    # the five copies of GOOD and the one that is longer by a letter
    assert tight.counts["dropped: length"] == 6


def test_a_restart_gives_the_same_bytes(
    run_stage: Callable[..., Manifest], inputs: dict[str, Path], tmp_path: Path
) -> None:
    whole = run_stage(run, settings(), inputs, name="stage")
    # killed after the first part: the duplicates of the second are found by what the first kept
    for name in ("part-00001", "part-00002", "set_aside-00001", "manifest"):
        next((tmp_path / "stage").glob(f"{name}.*")).unlink()
    again = run_stage(run, settings(), inputs, name="stage")
    assert again.digest == whole.digest
    assert again.counts == whole.counts


@pytest.mark.parametrize("num_workers", [2, 3])
def test_any_number_of_processes_gives_the_same_bytes(
    run_stage: Callable[..., Manifest],
    inputs: dict[str, Path],
    make_response: Callable[..., Response],
    monkeypatch: pytest.MonkeyPatch,
    num_workers: int,
) -> None:
    monkeypatch.setattr(runner, "cut_file", partial(cut_file, piece_bytes=1))
    # row groups of one record each: duplicates of a piece lie in others, before and after it
    texts = [GOOD, "b. Answer: 5", GOOD, "We add.", "b. Answer:  5", "c. Answer: 5", GOOD + "s"]
    records = [make_response(text, candidate=n) for n, text in enumerate(texts * 2)]
    folder = inputs["a"].with_name("c")
    folder.mkdir()
    pq.write_table(to_table(Response, records, {}), folder / "rows.parquet", row_group_size=3)
    inputs["c"] = folder
    one = settings(responses=["c", "a", "b"], num_workers=1)
    expected = run_stage(run, one, inputs, name="one")
    assert expected.counts["kept"] == 6
    assert expected.counts["dropped: duplicate"] == 10
    many = one.model_copy(update={"num_workers": num_workers})
    found = run_stage(run, many, inputs, name="many")
    assert (found.files, found.counts) == (expected.files, expected.counts)
    assert sum(name.startswith("part-") for name in found.files) == 8


def test_an_inexact_tokenizer_is_left_and_all_is_judged_again(
    run_stage: Callable[..., Manifest],
    inputs: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The last piece finds it out, when the others have been judged."""
    expected = run_stage(run, settings(num_workers=1), inputs, name="exact")
    check = BulkEncoder.check

    def found_out(encoder: BulkEncoder, texts: Iterable[str]) -> None:
        texts = list(texts)
        if encoder._fast and any("two" in text for text in texts):
            raise ExactnessError("ids differ for a text")
        check(encoder, texts)

    monkeypatch.setattr(BulkEncoder, "check", found_out)
    monkeypatch.setattr(token_counter, "is_checked", lambda response: True)
    found = run_stage(run, settings(num_workers=1), inputs, name="inexact")
    assert found.files == expected.files
    told = "starting again with tokenizers, not gigatoken: ids differ for a text"
    assert told in capsys.readouterr().out


def test_malformed_records_stop_or_are_set_aside(
    run_stage: Callable[..., Manifest],
    make_response: Callable[..., Response],
    model_dir: Path,
    tmp_path: Path,
) -> None:

    row = asdict(make_response(GOOD))
    lines = [json.dumps(row | {"text": ""}), "{", json.dumps(row)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    inputs = {"a": tmp_path / "a.jsonl", "student": model_dir}
    with pytest.raises(UserError, match=r"a\.jsonl: record 1: field text: is empty"):
        run_stage(run, settings(responses=["a"]), inputs)
    manifest = run_stage(run, settings(responses=["a"], on_malformed="set_aside"), inputs)
    assert manifest.counts == {"kept": 1, "kept T=1": 1, "malformed": 2}


def test_the_report_shows_what_each_rule_dropped(
    run_stage: Callable[..., Manifest], inputs: dict[str, Path], tmp_path: Path
) -> None:
    run_stage(run, settings(), inputs)
    report = json.loads((tmp_path / "stage" / "report.json").read_text())
    assert report["dropped"]["duplicate"] == 2
    assert report["by_temperature"] == {"kept": {"0.6": 1, "1": 3}, "dropped": {"1": 5}}
    (longer,) = report["examples"]["length"]
    size = PROMPT_TOKENS + RESPONSE_TOKENS
    assert longer["found"] == f"{size + 1} tokens, at most {size} allowed"
    assert longer["begins"] == GOOD + "s"
    assert report["settings"]["length"] == {"max_length": size}
    page = (tmp_path / "stage" / "report.html").read_text()
    assert "We add. Answer: fives" in page
    assert f"{size + 1} tokens, at most {size} allowed" in page


def test_benchmarks_are_kept_out(
    run_stage: Callable[..., Manifest],
    make_response: Callable[..., Response],
    make_prompt: Callable[..., Prompt],
    write_records: Callable[..., Path],
    model_dir: Path,
    tmp_path: Path,
) -> None:
    question = "how many of the first fifty odd numbers are primes that end in three"
    (tmp_path / "bench.jsonl").write_text(json.dumps({"q": question}) + "\n")
    responses = [
        make_response(GOOD, prompt=make_prompt("p0", "Tell me: " + question)),
        make_response(f"{question}. Answer: x", prompt=make_prompt("p1")),
        make_response(GOOD, prompt=make_prompt("p2", "how many of the first fifty odd numbers")),
    ]
    inputs = {
        "a": write_records("a", [responses]),
        "student": model_dir,
        "bench": tmp_path / "bench.jsonl",
    }
    given = settings(responses=["a"], benchmarks=["bench"], max_length=400)
    manifest = run_stage(run, given, inputs)
    assert manifest.counts["dropped: contamination"] == 2
    assert [r.prompt.prompt_id for r in read_records(tmp_path / "stage", FilteredResponse)] == [
        "p2"
    ]
    aside = pq.read_table(tmp_path / "stage" / "set_aside-00000.parquet").to_pylist()
    assert aside[0]["detail"].endswith("of bench.jsonl, record 1")


def test_duplicates_differ_in_whitespace_at_most(
    run_stage: Callable[..., Manifest],
    make_response: Callable[..., Response],
    write_records: Callable[..., Path],
    model_dir: Path,
    tmp_path: Path,
) -> None:
    texts = ["a b. Answer: c", "a  b. Answer: c", "A b. Answer: c"]
    responses = [make_response(text, candidate=number) for number, text in enumerate(texts)]
    inputs = {"a": write_records("a", [responses]), "student": model_dir}
    run_stage(run, settings(responses=["a"], max_length=400), inputs)
    kept = [r.text for r in read_records(tmp_path / "stage", FilteredResponse)]
    assert kept == [texts[0], texts[2]]


def test_what_is_evaluated_is_dropped_counted_and_not_shown(
    run_stage: Callable[..., Manifest],
    make_prompt: Callable[..., Prompt],
    make_response: Callable[..., Response],
    write_records: Callable[..., Path],
    model_dir: Path,
    tmp_path: Path,
) -> None:
    copy = published.gpqa(tmp_path / "gpqa_diamond.csv")
    asks = make_prompt("p0", f"Tell me: {published.GPQA_QUESTION}")
    responses = [
        make_response(GOOD),
        make_response(GOOD, prompt=asks),
        make_response("We add.", prompt=asks, candidate=1),  # another rule takes it before
    ]
    inputs = {"a": write_records("a", [responses]), "student": model_dir, "copy": copy}
    given = settings(responses=["a"], evaluated={"gpqa_diamond": "copy"}, max_length=4000)
    manifest = run_stage(run, given, inputs)
    assert manifest.figures["overlap"] == {
        "GPQA-Diamond": {"questions": 1, "found": 1, "responses": 1}
    }
    assert manifest.figures["dropped"]["contamination"] == 1
    assert manifest.figures["dropped"]["structure"] == 1
    for name in ("report.html", "report.json"):
        text = (tmp_path / "stage" / name).read_text()
        assert "question rec1" in text
        assert "made-up particles" not in text
