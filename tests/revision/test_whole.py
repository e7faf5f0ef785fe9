"""Rollouts as packed data, token for token, for distillation on the student's own text."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerBase

from megatron_dasd.config.data import PreprocessData
from megatron_dasd.config.teacher import KeepRollouts, ScoreTopk
from megatron_dasd.data import preprocess_data
from megatron_dasd.data.meta import LOSS_MASK, TOKENS, Document
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.data.teacher_top import IDS, DistillationDataset, with_top
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import Manifest, model_folder
from megatron_dasd.records import FinishReason, Prompt, Rollout
from megatron_dasd.records_io import read_records, to_table
from megatron_dasd.revision import whole
from megatron_dasd.revision.whole import whole_response
from megatron_dasd.teacher import top_tokens
from megatron_dasd.text.chat import render_prompt
from megatron_dasd.text.encoding import encode, load_tokenizer
from megatron_dasd.text.layout import end_of_turn_id

RunStage = Callable[..., Manifest]
WriteRecords = Callable[[str, Sequence[Sequence[Any]]], Path]


def rollout(
    prompt: Prompt, ids: list[int], text: str, reason: FinishReason, **fields: Any
) -> Rollout:
    given = {"num_bytes": [1] * len(ids), "max_tokens": 9, "seed": 3, "temperature": 0.8}
    return Rollout(
        prompt=prompt, token_ids=ids, text=text, finish_reason=reason, **(given | fields)
    )


def test_all_of_it_is_the_students(make_prompt: Callable[..., Prompt]) -> None:
    made = whole_response(rollout(make_prompt(), [7, 8, 9], "abc", "length", candidate=2), [1] * 3)
    assert made is not None
    assert made.output == made.student_prefix == "abc"
    assert made.student_prefix_ids == [7, 8, 9]
    assert (made.temperature, made.candidate, made.finish_reason) == (0.8, 2, "length")


def test_tokens_inside_a_character_that_the_cap_has_cut_are_left_out(
    make_prompt: Callable[..., Prompt],
) -> None:
    # the last two tokens are two of three bytes of a character that the text does not have
    cut = rollout(make_prompt(), [7, 8, 9], "a", "length")
    made = whole_response(cut, [1, 1, 1])
    assert made is not None
    assert made.student_prefix_ids == [7]
    assert whole_response(rollout(make_prompt(), [8], "", "length"), [1]) is None


@pytest.fixture
def packed(
    random_model_dir: Path,
    make_prompt: Callable[..., Prompt],
    write_records: WriteRecords,
    run_stage: RunStage,
    tmp_path: Path,
) -> tuple[Path, list[Rollout]]:
    """Two rollouts, packed: one that ended and one that was cut off."""
    tokenizer = load_tokenizer(model_folder(random_model_dir))
    texts: list[tuple[str, FinishReason]] = [("abc = a", "stop"), ("bad =", "length")]
    rollouts = [
        rollout(make_prompt(f"p{i}"), encode(tokenizer, text, parse_special=False), text, reason)
        for i, (text, reason) in enumerate(texts)
    ]
    inputs = {"rollouts": write_records("rollouts", [rollouts]), "model": random_model_dir}
    settings = KeepRollouts(kind="keep_rollouts", rollouts="rollouts", model="model")
    assert run_stage(whole.run, settings, inputs).counts == {"kept": 2}
    kept = (tmp_path / "stage").rename(tmp_path / "kept")
    settings_of_data = PreprocessData(
        kind="preprocess_data", model="model", responses="kept", seq_length=64, pack_align=1, seed=1
    )
    run_stage(preprocess_data.run, settings_of_data, {"kept": kept, "model": random_model_dir})
    return (tmp_path / "stage").rename(tmp_path / "packed"), rollouts


def asked(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    return encode(tokenizer, render_prompt(tokenizer, prompt.messages, None))


def test_a_turn_that_was_cut_off_has_no_end(
    packed: tuple[Path, list[Rollout]], random_model_dir: Path
) -> None:
    folder, (ended, cut) = packed
    tokenizer = load_tokenizer(model_folder(random_model_dir))
    data = PackedDataset(folder)
    end = end_of_turn_id(tokenizer)
    for number, (own, tail) in enumerate([(ended, [end]), (cut, [])]):
        document = data.document(number)
        prompt_ids = asked(tokenizer, own.prompt)
        assert document[TOKENS].tolist() == [*prompt_ids, *own.token_ids, *tail]
        assert document[LOSS_MASK].tolist() == [0] * len(prompt_ids) + [1] * (
            len(own.token_ids) + len(tail)
        )
    documents = list(read_records(folder, Document))
    assert [d.num_prefix_tokens for d in documents] == [len(ended.token_ids), len(cut.token_ids)]
    assert [d.temperature for d in documents] == [0.8, 0.8]


def test_the_teacher_is_asked_about_rollouts_alone(
    packed: tuple[Path, list[Rollout]],
    random_model_dir: Path,
    run_stage: RunStage,
    tmp_path: Path,
) -> None:
    folder, _ = packed
    inputs = {"data": folder, "model": random_model_dir}
    given = {"data": "data", "model": "model", "teacher": "model", "top_k": 3, "dtype": "float32"}
    settings = ScoreTopk(kind="score_topk", only_rollouts=True, **given)
    run_stage(top_tokens.run, settings, inputs)
    row = DistillationDataset(folder, tmp_path / "stage")[0]
    documents = row["cu_seqlens"].tolist()
    known = (row[IDS][:, 0] >= 0).tolist()
    for start, end in pairwise(documents):
        if end > start:  # at every label; the last token has none
            assert known[start : end - 1] == [True] * (end - start - 1)


def test_data_that_the_student_did_not_write_is_not_asked_about(
    packed: tuple[Path, list[Rollout]], random_model_dir: Path, run_stage: RunStage
) -> None:
    folder, _ = packed
    documents = [
        replace(document, num_prefix_tokens=number)  # none of it, and a part of it
        for number, document in enumerate(read_records(folder, Document))
    ]
    (part,) = folder.glob("part-*.parquet")
    pq.write_table(to_table(Document, documents, {}), part)
    inputs = {"data": folder, "model": random_model_dir}
    settings = ScoreTopk(
        kind="score_topk", only_rollouts=True, data="data", model="model", teacher="model", top_k=3
    )
    with pytest.raises(UserError, match="none is a whole rollout of the student"):
        run_stage(top_tokens.run, settings, inputs)


def test_rows_without_a_teacher_say_so(packed: tuple[Path, list[Rollout]]) -> None:
    row = with_top(PackedDataset(packed[0])[0])
    assert row[IDS].shape == (64, 1)
    assert (row[IDS] == -1).all()
    assert with_top(row) is row
