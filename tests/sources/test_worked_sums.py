"""Stage worked_sums: lessons in the normalised form, none of which is a prompt."""

from pathlib import Path

from megatron_dasd.config.sources import ColumnAddition, MakePrompts, WorkedSums
from megatron_dasd.evaluation.graders import find_grader
from megatron_dasd.records import FilteredResponse, Prompt
from megatron_dasd.records_io import read_records
from megatron_dasd.sources import prompts, worked_sums
from megatron_dasd.sources.prompts import task_prompts
from tests.conftest import RunStage

TASK = ColumnAddition(generator="column_addition", size=40)


def test_lessons_are_right_in_every_style_and_leave_the_prompts_out(
    run_stage: RunStage, tmp_path: Path
) -> None:
    lessons = WorkedSums(kind="worked_sums", size=300, carries="none", seed=1)
    run_stage(worked_sums.run, lessons, {})
    first = list(read_records(tmp_path / "stage", FilteredResponse))
    assert {one.model for one in first} == {"terse", "explained", "wordy"}
    assert all(find_grader(one.prompt)(one.output) == 1.0 for one in first)
    assert len({one.prompt.messages[0].content for one in first}) == 300


def test_prompts_are_made_of_sums_with_their_grader() -> None:
    made = list(task_prompts(TASK, 2, seed=1))
    assert [one.prompt_id for one in made[:2]] == [
        "column_addition-2-00000",
        "column_addition-2-00001",
    ]
    grade = find_grader(made[0])
    first, second = made[0].messages[0].content.split("+")
    assert grade(f"<think>\nx\n</think>\n\n{int(first) + int(second)}") == 1.0
    assert grade(f"<think>\nx\n</think>\n\n{int(first) + int(second) + 1}") == 0.0


def test_a_lesson_is_no_prompt(run_stage: RunStage, tmp_path: Path) -> None:
    task = ColumnAddition(generator="column_addition", size=200, carries="none")
    settings = MakePrompts(kind="make_prompts", tasks=[task], seed=1)
    run_stage(prompts.run, settings, {}, "prompts")
    asked = {one.messages[0].content for one in read_records(tmp_path / "prompts", Prompt)}
    everything = WorkedSums(kind="worked_sums", size=4000, carries="none", seed=1)
    rest = everything.model_copy(update={"without": "prompts"})
    inputs = {"prompts": tmp_path / "prompts"}
    for lessons, name in ((everything, "all"), (rest, "rest")):
        run_stage(worked_sums.run, lessons, inputs, name)
    questions = {
        name: {
            one.prompt.messages[0].content
            for one in read_records(tmp_path / name, FilteredResponse)
        }
        for name in ("all", "rest")
    }
    assert questions["all"] & asked
    assert not questions["rest"] & asked
    assert len(questions["rest"]) == 4000
