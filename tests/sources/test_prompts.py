import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reasoning_gym

from megatron_dasd.config.sources import MakePrompts, ReasoningGymTask
from megatron_dasd.errors import UserError
from megatron_dasd.records import Prompt
from megatron_dasd.records_io import SetAside, read_records
from megatron_dasd.sources import prompts
from megatron_dasd.sources.prompts import task_prompts, with_split, without_duplicates
from tests.conftest import RunStage

MakePrompt = Callable[..., Prompt]
SUMS = ReasoningGymTask(generator="chain_sum", size=12, config={"max_terms": 2, "max_digits": 1})


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(prompt_id: str, question: str, **fields: Any) -> dict[str, Any]:
    return {"prompt_id": prompt_id, "messages": [{"role": "user", "content": question}]} | fields


def test_a_tasks_prompts_carry_what_its_grader_needs() -> None:
    made = list(task_prompts(SUMS, 3, seed=1))
    assert [prompt.prompt_id for prompt in made[:2]] == ["chain_sum-3-00000", "chain_sum-3-00001"]
    for prompt in made:
        assert prompt.grader == "reasoning_gym:chain_sum"
        entry = {
            "question": prompt.messages[0].content,
            "answer": prompt.reference_answer,
            "metadata": json.loads(prompt.grader_metadata or ""),
        }
        dataset = reasoning_gym.create_dataset("chain_sum", size=1, seed=0)
        assert dataset.score_answer(prompt.reference_answer, entry) == 1.0
        assert dataset.score_answer("no number", entry) < 1.0


def test_the_seed_and_the_place_decide_the_tasks() -> None:
    first = list(task_prompts(SUMS, 0, seed=1))
    assert list(task_prompts(SUMS, 0, seed=1)) == first
    questions = [prompt.messages for prompt in first]
    assert [prompt.messages for prompt in task_prompts(SUMS, 0, seed=2)] != questions
    assert [prompt.messages for prompt in task_prompts(SUMS, 1, seed=1)] != questions


@pytest.mark.parametrize(
    ("task", "what"),
    [
        (ReasoningGymTask(generator="no_such", size=1), "reasoning-gym has no 'no_such'"),
        (
            ReasoningGymTask(generator="chain_sum", size=1, config={"min_terms": 0}),
            r"tasks\.0 \(chain_sum\)",
        ),
        (
            ReasoningGymTask(generator="chain_sum", size=1, config={"colour": "red"}),
            r"tasks\.0 \(chain_sum\): .*colour",
        ),
    ],
)
def test_a_bad_task_is_the_users_mistake(task: ReasoningGymTask, what: str) -> None:
    with pytest.raises(UserError, match=what):
        list(task_prompts(task, 0, seed=1))


def test_the_first_of_equal_questions_stays(make_prompt: MakePrompt) -> None:
    aside = SetAside()
    given = [make_prompt("a", "1 + 1"), make_prompt("b", "2 + 2"), make_prompt("c", "1  +\n1")]
    assert [prompt.prompt_id for prompt in without_duplicates(given, aside)] == ["a", "b"]
    assert aside.counts == {"dropped: duplicate question": 1}
    assert json.loads(aside.rows[0]["record"])["prompt_id"] == "c"


def test_one_id_for_two_questions_is_the_users_mistake(make_prompt: MakePrompt) -> None:
    with pytest.raises(UserError, match="prompt_id: 'a' belongs to two questions"):
        list(without_duplicates([make_prompt("a", "x"), make_prompt("a", "y")], SetAside()))


@pytest.mark.parametrize(
    ("fraction", "num_heldout"), [(0.0, 0), (0.2, 2), (0.25, 3), (0.24, 2), (0.99, 10)]
)
def test_the_heldout_share_is_exact(
    make_prompt: MakePrompt, fraction: float, num_heldout: int
) -> None:
    given = [make_prompt(f"p{i}", str(i)) for i in range(10)]
    split = with_split(given, fraction, seed=1)
    assert [prompt.prompt_id for prompt in split] == [prompt.prompt_id for prompt in given]
    assert Counter(prompt.split for prompt in split)["heldout"] == num_heldout


def test_the_split_depends_on_ids_and_seed_alone(make_prompt: MakePrompt) -> None:
    given = [make_prompt(f"p{i}", str(i)) for i in range(40)]

    def heldout(some: list[Prompt], seed: int) -> set[str]:
        return {p.prompt_id for p in with_split(some, 0.25, seed) if p.split == "heldout"}

    assert heldout(given, 1) == heldout(given[::-1], 1) != heldout(given, 2)


def test_what_a_file_holds_out_stays_out_and_counts(make_prompt: MakePrompt) -> None:
    given = [make_prompt(f"p{i}", str(i), split="heldout" if i < 3 else "train") for i in range(10)]
    for fraction, num_heldout in ((0.1, 3), (0.5, 5)):
        split = with_split(given, fraction, seed=1)
        assert [prompt.split for prompt in split[:3]] == ["heldout"] * 3
        assert sum(prompt.split == "heldout" for prompt in split) == num_heldout


def test_tasks_and_files_become_one_part(run_stage: RunStage, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "own.jsonl", [row("own", "1 + 1?"), row("again", "1 + 1?")])
    settings = MakePrompts(
        kind="make_prompts", files=["own.jsonl"], tasks=[SUMS], heldout_fraction=0.25, seed=5
    )
    manifest = run_stage(prompts.run, settings, {"own.jsonl": file})
    written = list(read_records(tmp_path / "stage", Prompt))
    assert written[-1].prompt_id == "own"
    assert len(written) == manifest.counts["train"] + manifest.counts["heldout"]
    assert manifest.counts["dropped: duplicate question"] >= 1
    assert manifest.figures == {"domains": ["chain_sum", "unknown"]}


def test_malformed_prompts_are_set_aside_when_asked(run_stage: RunStage, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "own.jsonl", [row("a", "x"), {"prompt_id": "b"}])
    settings = MakePrompts(kind="make_prompts", files=["own.jsonl"])
    with pytest.raises(UserError, match=r"own\.jsonl: record 2: field messages"):
        run_stage(prompts.run, settings, {"own.jsonl": file})
    settings = settings.model_copy(update={"on_malformed": "set_aside"})
    manifest = run_stage(prompts.run, settings, {"own.jsonl": file})
    assert manifest.counts == {"malformed": 1, "train": 1}
