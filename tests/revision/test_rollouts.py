import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_dasd.config.base import Engine
from megatron_dasd.config.teacher import RollOutStudent
from megatron_dasd.manifests import model_folder
from megatron_dasd.records import FilteredResponse, Prompt, Response, Rollout
from megatron_dasd.records_io import read_records
from megatron_dasd.revision import rollouts
from megatron_dasd.revision.rollouts import choose_prompts, prompt_caps
from megatron_dasd.text.encoding import load_tokenizer, token_bytes
from tests.conftest import RunStage

END = 2
SETTINGS = RollOutStudent(
    kind="roll_out_student",
    model="student",
    responses="select",
    engine=Engine(batch_size=8, dtype="float32"),
    seed=1,
)
Make = Callable[[Prompt, str], FilteredResponse]


@pytest.fixture
def make(make_response: Callable[..., Response]) -> Make:
    def filtered(prompt: Prompt, output: str) -> FilteredResponse:
        fields: dict[str, Any] = {"output": output, "output_spans": [], "text_spans": []}
        response = make_response("x", FilteredResponse, prompt=prompt, **fields)
        assert isinstance(response, FilteredResponse)
        return response

    return filtered


def test_the_cap_is_rounded_down_from_the_longest_response(
    make: Make, make_prompt: Callable[..., Prompt], random_model_dir: Path
) -> None:
    tokenizer = load_tokenizer(model_folder(random_model_dir))
    a, b, out = make_prompt("a"), make_prompt("b"), make_prompt("out", split="heldout")
    responses = [make(a, "abcde"), make(b, "ab"), make(a, "abc"), make(out, "abc")]
    caps = prompt_caps(iter(responses), tokenizer, 1.5)
    assert caps == {"a": (a, 7), "b": (b, 3)}  # a token a byte: 7.5 and 3
    assert prompt_caps(iter([make(b, "a")]), tokenizer, 0.1) == {"b": (b, 1)}


def test_a_subset_depends_on_seed_and_ids_alone(make_prompt: Callable[..., Prompt]) -> None:
    caps = {f"p{i}": (make_prompt(f"p{i}"), i) for i in range(20)}
    chosen = choose_prompts(caps, 5, seed=1)
    assert len(chosen) == 5
    assert list(chosen) == [prompt_id for prompt_id in caps if prompt_id in chosen]
    backwards = dict(reversed(caps.items()))
    assert set(choose_prompts(backwards, 5, seed=1)) == set(chosen)
    assert set(choose_prompts(caps, 5, seed=2)) != set(chosen)
    assert choose_prompts(caps, None, seed=1) == dict.fromkeys(caps, 0)


def test_the_order_of_prompts_goes_on_behind_those_passed_over_and_around_its_end(
    make_prompt: Callable[..., Prompt],
) -> None:
    caps = {f"p{i}": (make_prompt(f"p{i}"), i) for i in range(5)}
    rounds = [choose_prompts(caps, 2, seed=1, skip_prompts=2 * number) for number in range(5)]
    times = {prompt_id: [] for prompt_id in caps}
    for chosen in rounds:
        for prompt_id, around in chosen.items():
            times[prompt_id].append(around)
    assert times == {prompt_id: [0, 1] for prompt_id in caps}  # ten places, five prompts
    assert choose_prompts({}, 2, seed=1, skip_prompts=4) == {}


def test_rollouts_keep_their_ids_and_their_own_caps(
    run_stage: RunStage,
    tmp_path: Path,
    make: Make,
    make_prompt: Callable[..., Prompt],
    write_records: Callable[..., Path],
    random_model_dir: Path,
) -> None:
    responses = [make(make_prompt(f"p{i}", "ab" * i + "c"), "a" * (4 + i)) for i in range(20)]
    inputs = {"student": random_model_dir, "select": write_records("select", [responses])}
    manifest = run_stage(rollouts.run, SETTINGS, inputs)
    assert manifest.figures["num_prompts"] == manifest.figures["num_training_prompts"] == 20
    written = list(read_records(tmp_path / "stage", Rollout))
    by_length = manifest.figures["by_length"]
    assert (by_length[0]["from"], by_length[-1]["to"]) == (4, 23)
    assert sum(part["num_rollouts"] for part in by_length) == len(written)
    shares = [rollout.finish_reason == "length" for rollout in written]
    assert manifest.figures["cut_off"] == pytest.approx(sum(shares) / len(shares))
    assert len(written) + manifest.counts.get("dropped: empty", 0) == 20
    tokenizer = load_tokenizer(model_folder(random_model_dir))
    for rollout in written:
        number = int(rollout.prompt.prompt_id[1:])
        assert rollout.max_tokens == int(1.5 * (4 + number))
        assert END not in rollout.token_ids
        cut_off = rollout.finish_reason == "length"
        assert (len(rollout.token_ids) == rollout.max_tokens) == cut_off
        spelled = b"".join(token_bytes(tokenizer, rollout.token_ids))
        assert spelled.decode(errors="ignore") == rollout.text
        assert sum(rollout.num_bytes) == len(rollout.text.encode())
    assert {rollout.finish_reason for rollout in written} == {"stop", "length"}


def test_several_rollouts_a_prompt_have_draws_of_their_own(
    run_stage: RunStage,
    tmp_path: Path,
    make: Make,
    make_prompt: Callable[..., Prompt],
    write_records: Callable[..., Path],
    random_model_dir: Path,
) -> None:
    responses = [make(make_prompt(f"p{i}"), "a" * 20) for i in range(2)]
    inputs = {"student": random_model_dir, "select": write_records("select", [responses])}
    settings = SETTINGS.model_copy(update={"num_rollouts": 4})
    manifest = run_stage(rollouts.run, settings, inputs)
    written = list(read_records(tmp_path / "stage", Rollout))
    assert len(written) + manifest.counts.get("dropped: empty", 0) == 8
    names = [(rollout.prompt.prompt_id, rollout.candidate) for rollout in written]
    assert set(names) <= {(f"p{i}", number) for i in range(2) for number in range(4)}
    assert len(set(names)) == len({rollout.seed for rollout in written}) == len(written)


def test_a_malformed_response_is_set_aside_when_asked(
    run_stage: RunStage, tmp_path: Path, random_model_dir: Path
) -> None:
    file = tmp_path / "select.jsonl"
    file.write_text(json.dumps({"output": "a"}) + "\n")
    settings = SETTINGS.model_copy(update={"on_malformed": "set_aside"})
    inputs = {"student": random_model_dir, "select": file}
    assert run_stage(rollouts.run, settings, inputs).counts["malformed"] == 1
