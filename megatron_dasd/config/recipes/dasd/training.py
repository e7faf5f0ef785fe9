"""Stages of the recipe ``dasd`` that train: by temperature, and on the student's own prefixes."""

from megatron_dasd.config.recipes.dasd.fields import Dasd
from megatron_dasd.config.recipes.dasd.shared import (
    Stages,
    continue_stage,
    data_stage,
    export_stage,
    filter_stage,
    given,
    heldout_score,
    rollout_stage,
    selected,
    start,
    student,
    without_none,
)
from megatron_dasd.config.yaml_files import Content, laid_over


def scheduled(recipe: Dasd) -> Stages:
    """A training stage for each temperature, each from the one before; their scores, the export."""
    stages: Stages = {}
    checkpoint = start(recipe)
    for name, data in recipe.schedule.items():
        stages[name] = _train(recipe, checkpoint, data)
        checkpoint = name
    if recipe.figures:
        if recipe.scores["before"] == "score_before":
            stages["score_before"] = heldout_score(recipe, "filter", start(recipe))
        for name in recipe.schedule:
            stages[f"score_{name}"] = heldout_score(recipe, "filter", name)
    for name in recipe.schedule:
        if name == recipe.last or name in recipe.evaluated:
            stages[f"{name}_hf"] = export_stage(recipe, name)
    return stages


def mixed_policy(recipe: Dasd) -> Stages:
    """Rollouts of the student, continued by the teacher; stage 3, its score and its export."""
    part = recipe.mixed_policy
    if not part:
        return {}
    training = {"epochs": 1} | _at_the_lowest_rate(recipe)
    responses = selected(recipe)
    stages: Stages = {
        "rollouts": rollout_stage(recipe, part.rollouts, f"{recipe.last}_hf", responses),
        "continuations": continue_stage(recipe, "rollouts"),
        "filter_mixed": filter_stage(recipe, "continuations", recipe.seq_length),
        "data_mixed": data_stage(recipe, "filter_mixed", mix=responses),
        "stage3": _train(recipe, recipe.last, "data_mixed", training, given(part.training)),
    }
    if recipe.figures:
        stages["score_stage3"] = heldout_score(recipe, "filter", "stage3")
    return stages | {"stage3_hf": export_stage(recipe, "stage3")}


def live(recipe: Dasd) -> Stages:
    """A training whose worker makes mixed-policy rows of its newest weights."""
    part = recipe.live
    if not part:
        return {}
    round_stages: Stages = {
        "rollouts": rollout_stage(recipe, part.rollouts, "weights", selected(recipe)),
        "continuations": continue_stage(recipe, "rollouts"),
        "filter": filter_stage(recipe, "continuations", recipe.seq_length),
        "data": data_stage(recipe, "filter"),
    }
    on_policy = without_none(every=part.every, share=part.share, max_age=part.max_age)
    above = _at_the_lowest_rate(recipe) | {"on_policy": on_policy | {"stages": round_stages}}
    data = recipe.schedule[recipe.last]
    return {"stage3_live": _train(recipe, recipe.last, data, above, given(part.training))}


def _train(recipe: Dasd, checkpoint: str, data: str, *above: Content) -> Content:
    """Settings of a training stage: the recipe's, and what is laid over them."""
    settings = given(recipe.training)
    for more in above:
        settings = laid_over(settings, more)
    settings |= {"model": student(recipe), "checkpoint": checkpoint, "data": data}
    return settings | ({"heldout": "data_heldout"} if recipe.heldout_loss else {})


def _at_the_lowest_rate(recipe: Dasd) -> Content:
    """A constant learning rate, that at which the training before ends."""
    return {"lr": recipe.training.min_lr, "lr_decay_style": "constant"}
