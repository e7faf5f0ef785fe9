"""Stages of the recipe ``dasd`` up to packed data: models, responses, selection."""

from megatron_dasd.config.recipes.dasd.fields import Dasd
from megatron_dasd.config.recipes.dasd.shared import (
    Stages,
    asked,
    data_stage,
    export_stage,
    filter_stage,
    given,
    score_stage,
    selected,
    start,
    student,
    teacher,
    with_defaults,
)


def models(recipe: Dasd) -> Stages:
    """Where teacher and student come from, the student's checkpoint, its healing."""
    stages: Stages = {}
    source = recipe.teacher and (recipe.teacher.gguf or recipe.teacher.random)
    if source:
        stages["teacher"] = given(source)
    if recipe.student.prune:
        stages["student"] = given(recipe.student.prune) | teacher(recipe)
    stages["student_checkpoint"] = {"kind": "import_hf", "model": student(recipe)}
    return stages | _healing(recipe)


def _healing(recipe: Dasd) -> Stages:
    heal = recipe.student.heal
    if not heal:
        return {}
    precision = recipe.training.model_dump(include={"precision"}, exclude_unset=True)
    model = student(recipe)
    connected = {"model": model, "checkpoint": "student_checkpoint", "data": "heal_data"}
    training = with_defaults(given(heal.training), {"epochs": 1} | precision)
    stages: Stages = {
        "heal_data": given(heal.text) | {"model": model},
        "healed": training | connected,
    }
    if "before" in recipe.evaluated:
        stages["healed_hf"] = export_stage(recipe, "healed")
    return stages


def sampled(recipe: Dasd) -> Stages:
    """Prompts, the teacher's responses to them, filtered, scored and selected."""
    if not recipe.prompts:
        return {}
    sample = (
        {"kind": "sample_teacher"}
        | teacher(recipe)
        | {"prompts": "prompts", "temperatures": recipe.temperatures}
        | {"num_candidates": recipe.num_candidates}
        | asked(recipe)
    )
    score = score_stage(recipe, "filter", start(recipe))
    if recipe.scoring.few_shot:
        score |= {"split": "train", "few_shot": recipe.scoring.few_shot}
    return {
        "prompts": given(recipe.prompts),
        "sample": sample,
        "filter": filter_stage(recipe, "sample", recipe.max_length or recipe.seq_length),
        "score": score,
        "select": given(recipe.selection) | {"responses": "score"},
    }


def packed(recipe: Dasd) -> Stages:
    """Selected responses of each temperature; held-out ones where their loss is printed."""
    stages: Stages = {
        data: data_stage(recipe, selected(recipe), temperature=temperature)
        for data, temperature in zip(recipe.schedule.values(), recipe.temperatures, strict=True)
    }
    if recipe.heldout_loss:
        stages["data_heldout"] = data_stage(recipe, "filter", split="heldout")
    return stages
