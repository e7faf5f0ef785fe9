import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_dasd.config.base import Engine
from megatron_dasd.config.teacher import SampleTeacher
from megatron_dasd.errors import UserError
from megatron_dasd.records import Prompt, Response
from megatron_dasd.records_io import read_records
from megatron_dasd.teacher import sampling
from tests.conftest import RunStage

SETTINGS = SampleTeacher(
    kind="sample_teacher",
    model="teacher",
    prompts="prompts",
    temperatures=[0.6, 1.0],
    num_candidates=3,
    max_new_tokens=12,
    engine=Engine(batch_size=8, dtype="float32"),
    seed=1,
)
Inputs = dict[str, Path]


@pytest.fixture
def inputs(
    random_model_dir: Path,
    make_prompt: Callable[..., Prompt],
    write_records: Callable[..., Path],
) -> Inputs:
    prompts = [make_prompt(f"p{i}", "abc" * (i + 1)) for i in range(5)]
    return {"teacher": random_model_dir, "prompts": write_records("prompts", [prompts])}


def test_every_candidate_of_every_prompt_and_temperature_is_there(
    run_stage: RunStage, tmp_path: Path, inputs: Inputs
) -> None:
    manifest = run_stage(sampling.run, SETTINGS, inputs)
    responses = list(read_records(tmp_path / "stage", Response))
    wanted = [(f"p{i}", t, c) for i in range(5) for t in (0.6, 1.0) for c in range(3)]
    got = [(r.prompt.prompt_id, r.temperature, r.candidate) for r in responses]
    assert manifest.counts["generated"] == len(got)
    assert len(got) + manifest.counts.get("dropped: empty", 0) == len(wanted) == 30
    assert got == [key for key in wanted if key in set(got)]
    assert {response.model for response in responses} == {"teacher"}
    assert len({response.seed for response in responses}) == len(got)


def test_a_prompts_candidates_do_not_depend_on_the_other_prompts(
    run_stage: RunStage, tmp_path: Path, inputs: Inputs, write_records: Callable[..., Path]
) -> None:
    run_stage(sampling.run, SETTINGS, inputs, "all")
    prompts = list(read_records(inputs["prompts"], Prompt))
    fewer = inputs | {"prompts": write_records("fewer", [prompts[3:]])}
    run_stage(sampling.run, SETTINGS, fewer, "some")
    of_all = [r.text for r in read_records(tmp_path / "all", Response) if r.prompt in prompts[3:]]
    assert [response.text for response in read_records(tmp_path / "some", Response)] == of_all


def test_few_shot_turns_and_system_prompt_are_seen_but_not_recorded(
    run_stage: RunStage, tmp_path: Path, inputs: Inputs
) -> None:
    few_shot = tmp_path / "few_shot.jsonl"
    turns = [{"role": "user", "content": "aa"}, {"role": "assistant", "content": "a=a"}]
    few_shot.write_text("\n".join(json.dumps(turn) for turn in turns))
    run_stage(sampling.run, SETTINGS, inputs, "plain")
    shown = SETTINGS.model_copy(update={"few_shot": "few_shot.jsonl"})
    run_stage(sampling.run, shown, inputs | {"few_shot.jsonl": few_shot}, "shown")
    told = SETTINGS.model_copy(update={"system_prompt": "bad jig"})
    run_stage(sampling.run, told, inputs, "told")
    texts = {}
    for name in ("plain", "shown", "told"):
        responses = list(read_records(tmp_path / name, Response))
        texts[name] = Counter(response.text for response in responses)
        assert {len(response.prompt.messages) for response in responses} == {1}
    assert texts["plain"] != texts["shown"] != texts["told"] != texts["plain"]


def test_no_prompts_are_the_users_mistake(
    run_stage: RunStage, tmp_path: Path, inputs: Inputs
) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(UserError, match=r"empty\.jsonl: holds no prompts"):
        run_stage(sampling.run, SETTINGS, inputs | {"prompts": empty})


def test_malformed_prompts_stop_or_are_set_aside(
    run_stage: RunStage, tmp_path: Path, inputs: Inputs
) -> None:
    file = tmp_path / "own.jsonl"
    good = {"prompt_id": "a", "messages": [{"role": "user", "content": "ab"}]}
    file.write_text(json.dumps(good) + '\n{"prompt_id": "b"}\n')
    given = inputs | {"prompts": file}
    with pytest.raises(UserError, match=r"own\.jsonl: record 2: field messages"):
        run_stage(sampling.run, SETTINGS, given)
    kept = SETTINGS.model_copy(update={"on_malformed": "set_aside"})
    manifest = run_stage(sampling.run, kept, given, "kept")
    assert manifest.counts["malformed"] == 1
    assert manifest.counts["generated"] + manifest.counts.get("dropped: empty", 0) == 6
