"""Stage preprocess_data: exact tokens and masks, what is left out, and the mix."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_dasd.config.data import PreprocessData
from megatron_dasd.data.integrity import faults
from megatron_dasd.data.meta import Document
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.data.pieces import plan_shards
from megatron_dasd.data.preprocess_data import run
from megatron_dasd.data.shards import make_shard
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import Manifest
from megatron_dasd.records import (
    FilteredResponse,
    Prompt,
    Response,
    SelectedResponse,
    Sentence,
    Span,
    TokenLogprobs,
)
from megatron_dasd.records_io import read_records
from megatron_dasd.text.bulk import ExactnessError

RunStage = Callable[..., Manifest]
WriteRecords = Callable[[str, Sequence[Sequence[Any]]], Path]
MakeFiltered = Callable[..., FilteredResponse]
OUTPUT = "<think>\nab\n</think>\n\nc"
PROMPT_TOKENS = 3 + len("user\nq\nassistant\n")
EXAMPLE_TOKENS = PROMPT_TOKENS + len(OUTPUT) + 1


def settings(**changes: object) -> PreprocessData:
    given = {
        "kind": "preprocess_data",
        "model": "model",
        "responses": "responses",
        "seq_length": 2 * EXAMPLE_TOKENS,
        "seed": 1,
        "pack_align": 1,
    }
    return PreprocessData(**(given | changes))  # type: ignore[arg-type]


@pytest.fixture
def make_filtered(
    make_response: Callable[..., Response], make_prompt: Callable[..., Prompt]
) -> MakeFiltered:
    """Make a filtered response to prompt ``prompt_id``; output and further fields by name."""

    def make(prompt_id: str = "p0", split: str = "train", **fields: Any) -> FilteredResponse:
        given = {
            "prompt": make_prompt(prompt_id, split=split),
            "output": OUTPUT,
            "output_spans": [Span(start=8, end=10), Span(start=21, end=22)],
            "text_spans": [],
        }
        given |= fields
        return make_response(given.pop("text", "x"), FilteredResponse, **given)  # type: ignore[return-value]

    return make


def names(folder: Path) -> list[str]:
    return [document.name for document in read_records(folder, Document)]


def test_what_is_left_out_is_counted(
    run_stage: RunStage,
    make_filtered: MakeFiltered,
    write_records: WriteRecords,
    model_dir: Path,
    tmp_path: Path,
) -> None:
    parts = [
        [make_filtered("p0"), make_filtered("p1", "heldout"), make_filtered("p2", temperature=0.6)],
        [make_filtered("p3"), make_filtered("p4", output=OUTPUT + "c" * (EXAMPLE_TOKENS + 1))],
    ]
    inputs = {"model": model_dir, "responses": write_records("responses", parts)}
    manifest = run_stage(run, settings(temperature=1.0), inputs)
    assert manifest.counts == {
        "kept": 2, "skipped: heldout": 1, "skipped: T=0.6": 1, "dropped: length": 1,
    }  # fmt: skip
    assert names(tmp_path / "stage") == ["p0 T=1 response 0", "p3 T=1 response 0"]
    assert manifest.figures["num_loss_tokens"] == 2 * (len(OUTPUT) + 1)
    assert manifest.figures["num_packs"] == 1
    row = PackedDataset(tmp_path / "stage")[0]
    first_target = PROMPT_TOKENS - 1  # the prompt's last token predicts the response's first
    expected = [0] * first_target + [1] * (len(OUTPUT) + 1) + [0]
    assert row["loss_mask"].tolist() == expected * 2

    heldout = run_stage(run, settings(split="heldout"), inputs, name="heldout")
    assert names(tmp_path / "heldout") == ["p1 T=1 response 0"]
    assert heldout.counts == {"kept": 1, "skipped: train": 4}
    everything = run_stage(run, settings(split="all", seq_length=999), inputs, name="all")
    assert everything.counts == {"kept": 5}


def test_nothing_left_is_an_error(
    run_stage: RunStage, make_filtered: MakeFiltered, write_records: WriteRecords, model_dir: Path
) -> None:
    responses = write_records("responses", [[make_filtered("p1", "heldout")]])
    with pytest.raises(UserError, match=r"no response left to train on .*skipped: heldout"):
        run_stage(run, settings(), {"model": model_dir, "responses": responses})


def test_the_mix_is_drawn_without_replacement_and_never_held_out(
    run_stage: RunStage,
    make_filtered: MakeFiltered,
    write_records: WriteRecords,
    model_dir: Path,
    tmp_path: Path,
) -> None:
    own = [
        make_filtered(f"m{i}", student_prefix="<think>\na", student_prefix_ids=[77])
        for i in range(4)
    ]
    pool = [[make_filtered(f"p{i}", "heldout" if i % 5 == 0 else "train")] for i in range(20)]
    inputs = {
        "model": model_dir,
        "responses": write_records("responses", [own]),
        "pool": write_records("pool", pool),
    }

    def mixed(name: str, **changes: object) -> tuple[list[str], dict[str, int]]:
        manifest = run_stage(run, settings(mix="pool", **changes), inputs, name=name)
        documents = names(tmp_path / name)
        assert documents[:4] == [f"m{i} T=1 continuation 0" for i in range(4)]
        assert manifest.counts["kept"] == 4
        return documents[4:], manifest.counts

    drawn, counts = mixed("first", mix_ratio=1.6)  # 6.4 of them
    assert (counts["mix: wanted"], counts["mix: kept"]) == (6, 6)
    assert len(set(drawn)) == 6
    trained = [f"p{i} T=1 response 0" for i in range(20) if i % 5]
    assert set(drawn) < set(trained)
    assert drawn == sorted(drawn, key=trained.index)  # in the order of the pool
    assert mixed("again", mix_ratio=1.6)[0] == drawn
    assert mixed("other", mix_ratio=1.6, seed=2)[0] != drawn
    more = mixed("more", mix_ratio=2.0)[0]
    assert set(drawn) < set(more)  # a larger share keeps what a smaller one drew
    everything, counts = mixed("all", mix_ratio=9.0)
    assert everything == trained
    assert (counts["mix: wanted"], counts["mix: kept"]) == (36, 16)
    assert mixed("none", mix_ratio=0.0)[0] == []


def test_a_restart_gives_the_same_bytes(
    run_stage: RunStage,
    make_filtered: MakeFiltered,
    write_records: WriteRecords,
    model_dir: Path,
    tmp_path: Path,
) -> None:
    responses = write_records("responses", [[make_filtered(f"p{i}") for i in range(5)]])
    inputs = {"model": model_dir, "responses": responses}
    whole = run_stage(run, settings(), inputs)
    (tmp_path / "stage" / "part-00000.parquet").unlink()
    again = run_stage(run, settings(), inputs)
    assert (again.digest, again.figures) == (whole.digest, whole.figures)


@pytest.fixture
def many(
    make_filtered: MakeFiltered,
    write_records: WriteRecords,
    model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Path]:
    """Six files of responses and as many to mix in, a shard each."""
    monkeypatch.setattr("megatron_dasd.data.preprocess_data.plan_shards", _a_shard_a_file)
    parts = [
        [make_filtered(f"{i}-{j}", output=OUTPUT + "d" * (3 * i + j)) for j in range(4)]
        for i in range(6)
    ]
    return {
        "model": model_dir,
        "responses": write_records("responses", parts),
        "pool": write_records("pool", parts[::-1]),
    }


def _a_shard_a_file(path: Path) -> list[Any]:
    return plan_shards(path, shard_bytes=1)


def test_any_number_of_workers_gives_the_same_bytes(
    run_stage: RunStage, many: dict[str, Path], tmp_path: Path
) -> None:
    given = {"mix": "pool", "mix_ratio": 0.5, "seq_length": 3 * EXAMPLE_TOKENS}
    one = run_stage(run, settings(num_workers=1, **given), many, name="one")
    three = run_stage(run, settings(num_workers=3, **given), many, name="three")
    assert three.files == one.files
    assert one.counts == {"kept": 24, "mix: wanted": 12, "mix: kept": 12}
    assert list(faults(tmp_path / "three")) == []
    assert not list((tmp_path / "one").glob(".shards*"))
    assert settings(num_workers=1).identity() == settings(num_workers=3).identity()


def test_what_an_earlier_attempt_made_is_not_made_again_unless_it_is_damaged(
    run_stage: RunStage,
    many: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = run_stage(run, settings(num_workers=1), many, name="whole")
    made: list[int] = []

    def make_some(job: Any) -> int:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(job.index)
        return make_shard(job)

    monkeypatch.setattr("megatron_dasd.data.preprocess_data.make_shard", make_some)
    with pytest.raises(KeyboardInterrupt):
        run_stage(run, settings(num_workers=1), many)
    made.append(-1)  # no interruption this time
    damaged = tmp_path / "stage" / ".shards.tmp" / "00001" / "loss_mask.bin"
    content = damaged.read_bytes()
    damaged.write_bytes(bytes([content[0], content[1] ^ 1]) + content[2:])
    assert run_stage(run, settings(num_workers=1), many).files == whole.files
    assert made == [0, 1, 2, -1, 1, 3, 4, 5]


def test_a_library_that_turns_out_not_to_be_exact(
    run_stage: RunStage,
    many: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = run_stage(run, settings(num_workers=1), many, name="whole")
    used = []

    def find_out(job: Any) -> int:
        used.append((job.index, job.library))
        if job.library == "gigatoken" and job.index == 2:
            raise ExactnessError("ids differ for a text that begins 'x'")
        return make_shard(job)

    monkeypatch.setattr("megatron_dasd.data.preprocess_data.make_shard", find_out)
    assert run_stage(run, settings(num_workers=1), many).files == whole.files
    assert used[:3] == [(i, "gigatoken") for i in range(3)]
    assert used[3:] == [(i, "tokenizers") for i in range(6)]
    assert "starting again with tokenizers, not gigatoken: ids differ" in capsys.readouterr().out


def test_a_worker_s_user_error_comes_through(
    run_stage: RunStage, many: dict[str, Path], tmp_path: Path
) -> None:
    config = tmp_path / "other" / "config.json"
    shutil.copytree(many["model"], config.parent)
    config.write_text('{"vocab_size": 5}')
    with pytest.raises(UserError, match="response 0: token id .* outside the model's vocabulary"):
        run_stage(run, settings(num_workers=2), many | {"model": config.parent})


def test_companions_of_a_selected_response(
    run_stage: RunStage,
    make_filtered: MakeFiltered,
    write_records: WriteRecords,
    model_dir: Path,
    tokenizer: Any,
    tmp_path: Path,
) -> None:
    ids = tokenizer.encode(OUTPUT)
    teacher = TokenLogprobs(
        token_ids=ids, num_bytes=[1] * len(ids), logprobs=[-i / 4 for i in range(len(ids))]
    )
    sentences = [
        Sentence(text=text, teacher_probability=0.5, student_probability=0.5, provenance=name)
        for text, name in (("ab", "teacher"), ("c", "shared"))
    ]
    spans = [Span(start=8, end=10), Span(start=21, end=22)]
    selected = make_filtered(output_spans=spans, text_spans=spans, tokens=teacher, text=OUTPUT)
    record = SelectedResponse(
        **selected.__dict__, student_tokens=teacher, student_model="s", sentences=sentences
    )
    inputs = {"model": model_dir, "responses": write_records("responses", [[record]])}
    manifest = run_stage(run, settings(), inputs)
    assert manifest.figures["companions"] == ["teacher_logprobs", "sentence_classes"]
    document = PackedDataset(tmp_path / "stage").document(0)
    known = {PROMPT_TOKENS + i: -i / 4 for i in (8, 9, 21)}
    values = document["teacher_logprobs"].tolist()
    assert {i: v for i, v in enumerate(values) if v == v} == known
    classes = {PROMPT_TOKENS + i: number for i, number in ((8, 1), (9, 1), (21, 3))}
    assert {i: v for i, v in enumerate(document["sentence_classes"].tolist()) if v} == classes
    (described,) = read_records(tmp_path / "stage", Document)
    assert (described.prompt_id, described.domain) == ("p0", "unknown")
    assert (described.temperature, described.candidate) == (1.0, 0)


def test_malformed_records_are_named_or_set_aside(
    run_stage: RunStage, make_filtered: MakeFiltered, model_dir: Path, tmp_path: Path
) -> None:
    good = asdict(make_filtered("p0"))
    bad = good | {"output": None}
    outside = good | {"output_spans": [{"start": 0, "end": 99}]}
    lines = tmp_path / "responses.jsonl"
    lines.write_text("\n".join(map(json.dumps, [good, bad, good, outside])) + "\n{\n")
    table = pa.Table.from_pylist([good, bad, good, outside])
    pq.write_table(table, tmp_path / "responses.parquet")
    for file, num_bad in ((lines, 3), (tmp_path / "responses.parquet", 2)):
        inputs = {"model": model_dir, "responses": file}
        message = f"{file.name}: record 2: field output: Input should be a valid string"
        with pytest.raises(UserError, match=message):
            run_stage(run, settings(), inputs, name=f"stopped {file.name}")
        aside = settings(on_malformed="set_aside")
        name = f"aside {file.name}"
        manifest = run_stage(run, aside, inputs, name=name)
        assert manifest.counts == {"kept": 2, "malformed": num_bad}
        rows = pq.read_table(tmp_path / name / "set_aside-00000.parquet").to_pylist()
        reasons = [row["reason"].removeprefix(f"{file}: ") for row in rows]
        assert len(reasons) == num_bad
        assert reasons[0] == "record 2: field output: Input should be a valid string"
        assert reasons[-1].startswith("record 4: field output_spans: do not lie in the output")


def test_responses_weighed_by_the_teachers_own_probability(
    run_stage: RunStage,
    make_filtered: MakeFiltered,
    write_records: WriteRecords,
    model_dir: Path,
    tmp_path: Path,
) -> None:
    # e^-1 and e^-(1 + ln 3) of one prompt: 3/2 and 1/2; another prompt's response is alone
    parts = [
        [make_filtered("p0"), make_filtered("p1", logprob=-5.0)],
        [make_filtered("p0", candidate=1, logprob=-1.0 - math.log(3))],
    ]
    inputs = {"model": model_dir, "responses": write_records("responses", parts)}
    manifest = run_stage(run, settings(reweight_tau=1.0), inputs)
    data = PackedDataset(tmp_path / "stage")
    masks = [data.document(number)["loss_mask"] for number in range(3)]
    assert [sorted(set(mask.tolist())) for mask in masks] == [
        [0, pytest.approx(1.5)],
        [0, 1],
        [0, pytest.approx(0.5)],
    ]
    assert manifest.figures["num_loss_tokens"] == 3 * (len(OUTPUT) + 1)
    in_rows = sum(data[index]["loss_mask"].sum() for index in range(len(data)))
    assert in_rows == pytest.approx(3 * (len(OUTPUT) + 1))
    weights = tmp_path / "stage" / "data" / "sequence_weights.npy"
    damaged = bytearray(weights.read_bytes())
    damaged[damaged.index(b"(3,)") + 1] = ord("2")
    weights.write_bytes(damaged)
    with pytest.raises(UserError, match="sequence_weights.npy does not hold 3 weights"):
        PackedDataset(tmp_path / "stage")
