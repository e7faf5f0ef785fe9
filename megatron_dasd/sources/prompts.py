"""Stage make_prompts: tasks from generators and prompts from files, with a held-out part."""

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.sources import ColumnAddition, MakePrompts, ReasoningGymTask
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import Figures
from megatron_dasd.prompt_ids import question_of
from megatron_dasd.records import Message, Prompt
from megatron_dasd.records_io import SetAside, numbered_rows, parse_line, read_records
from megatron_dasd.seeds import derive_seed
from megatron_dasd.sources.response_rows import read_question, shown
from megatron_dasd.sources.user_files import UserFile, user_files
from megatron_dasd.tasks.column_addition import Sum, draw_sums


def run(settings: MakePrompts, inputs: Mapping[str, Path], folder: StageFolder) -> Figures:
    """Write all prompts as one part, each with its split."""
    aside = SetAside(settings.on_malformed)
    prompts: list[Prompt] = []
    for number, task in enumerate(settings.tasks):
        prompts += task_prompts(task, number, settings.seed)
    for name in settings.files:
        for file in user_files(inputs[name], settings.splits):
            prompts += _file_prompts(file, settings, aside)
    distinct = list(without_duplicates(prompts, aside))
    if not distinct:
        raise UserError("make_prompts: no prompts among the files and tasks")
    split = with_split(distinct, settings.heldout_fraction, settings.seed)
    aside.counts.update(prompt.split for prompt in split)
    folder.write_part(0, Prompt, split, aside.counts, aside.rows)
    return {"domains": sorted({prompt.domain for prompt in split})}


def _file_prompts(file: UserFile, settings: MakePrompts, aside: SetAside) -> Iterator[Prompt]:
    """Yield the prompts of one file: records, or other programs' rows by the settings' columns."""
    if not settings.names_a_shape:
        for prompt in read_records(file.path, Prompt, aside.malformed):
            yield replace(prompt, split="heldout") if file.split == "heldout" else prompt
        return
    columns = settings.columns()
    columns = columns.model_copy(update={"reference_answer": settings.reference_answer_field})
    for number, row in numbered_rows(file.path):
        try:
            parsed = parse_line(row) if isinstance(row, str) else row
            yield read_question(columns, parsed, file.split, settings.grader)
        except ValueError as error:
            aside.malformed(f"{file.path}: record {number}: {error}", shown(row))


def task_prompts(
    task: ReasoningGymTask | ColumnAddition, number: int, seed: int | None
) -> Iterator[Prompt]:
    """Yield the prompts of one generator, the same for the same settings.

    Args:
        number: place of the task in the settings; it tells two tasks of one generator apart.

    Raises:
        UserError: no such generator, or a configuration that it refuses.
    """
    if isinstance(task, ColumnAddition):
        rng = random.Random(derive_seed(seed, task.generator, number))
        for index, problem in enumerate(islice(draw_sums(rng, task.carries), task.size)):
            yield sum_prompt(problem, f"{task.generator}-{number}-{index:05d}")
        return
    import reasoning_gym  # takes seconds, and only these tasks need it
    from reasoning_gym.factory import DATASETS

    if task.generator not in DATASETS:
        raise UserError(f"tasks.{number}.generator: reasoning-gym has no {task.generator!r}")
    derived = derive_seed(seed, task.generator, number) % 2**31
    config = {"seed": derived, **task.config, "size": task.size}
    try:
        entries = list(reasoning_gym.create_dataset(task.generator, **config))
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(f"tasks.{number} ({task.generator}): {error}") from None
    for index, entry in enumerate(entries):
        yield Prompt(
            prompt_id=f"{task.generator}-{number}-{index:05d}",
            messages=[Message(role="user", content=entry["question"].strip())],
            domain=task.generator,
            reference_answer=entry["answer"],
            grader=f"reasoning_gym:{task.generator}",
            grader_metadata=json.dumps(entry["metadata"], sort_keys=True),
        )


def sum_prompt(problem: Sum, prompt_id: str) -> Prompt:
    """Make a prompt of a problem of column addition."""
    return Prompt(
        prompt_id=prompt_id,
        messages=[Message(role="user", content=problem.question)],
        domain="column_addition",
        reference_answer=problem.answer,
        grader="exact",
    )


def without_duplicates(prompts: Sequence[Prompt], aside: SetAside) -> Iterator[Prompt]:
    """Yield the first of all prompts that ask the same, and set the others aside.

    A question that came twice could be trained on and held out at once.

    Raises:
        UserError: one id for two questions.
    """
    by_question: set[bytes] = set()
    by_id: set[str] = set()
    for prompt in prompts:
        question = question_of(prompt.messages)
        if question in by_question:
            aside.drop("duplicate question", prompt)
        elif prompt.prompt_id in by_id:
            raise UserError(f"field prompt_id: {prompt.prompt_id!r} belongs to two questions")
        else:
            by_question.add(question)
            by_id.add(prompt.prompt_id)
            yield prompt


def with_split(
    prompts: Sequence[Prompt], heldout_fraction: float, seed: int | None
) -> list[Prompt]:
    """Mark the held-out prompts: those that a file marks, filled up to the fraction of all.

    Which ones fill it up depends on the seed and the ids alone, not on the order; their number is
    exact (rounded half up).
    """
    wanted = math.floor(len(prompts) * heldout_fraction + 0.5)
    marked = {prompt.prompt_id for prompt in prompts if prompt.split == "heldout"}
    others = [prompt.prompt_id for prompt in prompts if prompt.prompt_id not in marked]
    others.sort(key=lambda prompt_id: derive_seed(seed, "heldout", prompt_id))
    heldout = marked | set(others[: max(0, wanted - len(marked))])
    return [
        replace(prompt, split="heldout" if prompt.prompt_id in heldout else "train")
        for prompt in prompts
    ]
