"""One prompt that a chat template refuses is set aside and named, in every stage that generates."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest

from megatron_dasd.config.base import Settings
from megatron_dasd.config.stages import stage_kinds
from megatron_dasd.evaluation import runner as evaluate
from megatron_dasd.records import FilteredResponse, Prompt, Response, Rollout
from megatron_dasd.revision import continuation, rollouts
from megatron_dasd.teacher import sampling
from megatron_dasd.text.encoding import load_tokenizer
from tests.conftest import RunStage
from tests.stub_server import StubServer

STAGES: dict[str, tuple[ModuleType, dict[str, Any]]] = {
    "sample_teacher": (sampling, {"prompts": "in", "temperatures": [1.0], "num_candidates": 1}),
    "roll_out_student": (rollouts, {"responses": "in", "split": "heldout"}),
    "continue_teacher": (continuation, {"rollouts": "in"}),
    "evaluate": (evaluate, {"prompts": "in"}),
}


@pytest.fixture
def strict_model(model_dir: Path, tmp_path: Path) -> Path:
    """A model whose template refuses one question."""
    folder = tmp_path / "strict"
    shutil.copytree(model_dir, folder)
    tokenizer = load_tokenizer(model_dir)
    refuses = "{% if messages[-1].content == 'bad' %}{{ raise_exception('no bad') }}{% endif %}"
    tokenizer = type(tokenizer).from_pretrained(folder)
    tokenizer.chat_template = refuses + str(tokenizer.chat_template)
    tokenizer.save_pretrained(folder)
    return folder


def made(kind: str, prompt: Prompt, make_response: Callable[..., Response]) -> Any:
    if kind == "roll_out_student":
        return make_response("a", FilteredResponse, prompt=prompt, output="a", output_spans=[])
    if kind == "continue_teacher":
        text = "<think>\n" + "ab cd. " * 8
        ids = list(range(3, 3 + len(text)))
        sizes = [1] * len(text)
        return Rollout(
            prompt=prompt,
            token_ids=ids,
            num_bytes=sizes,
            text=text,
            max_tokens=len(text),
            finish_reason="length",
            seed=0,
        )
    return prompt


@pytest.mark.parametrize("kind", STAGES)
def test_a_refused_prompt_is_set_aside(
    kind: str,
    strict_model: Path,
    make_prompt: Callable[..., Prompt],
    make_response: Callable[..., Response],
    write_records: Callable[[str, Sequence[Sequence[Any]]], Path],
    run_stage: RunStage,
    tmp_path: Path,
) -> None:
    graded = {"split": "heldout", "grader": "exact", "reference_answer": "7"}
    prompts = [make_prompt(f"p{n}", text, **graded) for n, text in enumerate(["a", "bad", "c"])]
    records = [made(kind, prompt, make_response) for prompt in prompts]
    module, given = STAGES[kind]
    with StubServer() as stub:
        given = given | {"kind": kind, "seed": 1}
        given["engine"] = {"server": {"urls": [stub.url], "probe": False}}
        given |= {"models": {"a": "model"}} if kind == "evaluate" else {"model": "model"}
        given |= {} if kind == "roll_out_student" else {"max_new_tokens": 8}
        settings: Settings = stage_kinds()[kind].model_validate(given)
        inputs = {"in": write_records("in", [records]), "model": strict_model}
        manifest = run_stage(module.run, settings, inputs)
    assert len(stub.bodies) == 2
    assert manifest.counts["dropped: refused by the chat template"] == 1
    (row,) = pq.read_table(tmp_path / "stage" / "set_aside-00000.parquet").to_pylist()
    named = json.loads(row["record"])
    assert named.get("prompt", named)["prompt_id"] == "p1"
    assert row["reason"] == "refused by the chat template"
    assert "refuses the turns user (no bad)" in row["detail"]
    assert pq.read_table(tmp_path / "stage" / "part-00000.parquet").num_rows == 2
