"""Stages of the recipe ``dasd`` that measure: exposure bias, verification, accuracy, report."""

from megatron_dasd.config.recipes.dasd.fields import Dasd
from megatron_dasd.config.recipes.dasd.shared import (
    Stages,
    continue_stage,
    engine,
    filter_stage,
    heldout_score,
    rollout_stage,
    student,
    system_prompt,
    with_defaults,
    without_none,
)
from megatron_dasd.config.yaml_files import Content

EXPOSURE: Content = {"num_rollouts": 3, "cap_ratio": 0.8}
"""Three draws, for the figure's spread; a low cap, since only prefixes are measured."""


def exposure(recipe: Dasd) -> Stages:
    """Continuations of the student's own prefixes on held-out prompts, scored before and after."""
    if not recipe.figures or not recipe.figures.exposure:
        return {}
    rollouts = rollout_stage(recipe, recipe.figures.exposure, f"{recipe.last}_hf", "filter")
    stages: Stages = {
        "heldout_rollouts": with_defaults(rollouts, EXPOSURE) | {"split": "heldout"},
        "heldout_continuations": continue_stage(recipe, "heldout_rollouts"),
        "filter_heldout": filter_stage(recipe, "heldout_continuations", recipe.seq_length),
    }
    for name in recipe.exposed:
        stages[f"exposure_{name}"] = heldout_score(recipe, "filter_heldout", name)
    return stages


def results(recipe: Dasd) -> Stages:
    """The last export compared with its checkpoint; accuracy; the report."""
    last = recipe.students[-1]
    stages: Stages = {
        "verify": {
            "kind": "verify_conversion",
            "model": f"{last}_hf",
            "checkpoint": last,
            "responses": recipe.responses or "filter",
        }
    }
    if recipe.evaluated:
        stages["evaluate"] = _evaluate(recipe)
    if recipe.figures:
        stages["report"] = _report(recipe, recipe.figures.title)
    return stages


def _evaluate(recipe: Dasd) -> Content:
    before = "healed_hf" if recipe.student.heal else student(recipe)
    models = {name: f"{name}_hf" for name in recipe.evaluated}
    return (
        {"kind": "evaluate", "prompts": "prompts"}
        | {"models": models | ({"before": before} if "before" in models else {})}
        | without_none(max_new_tokens=recipe.max_new_tokens)
        | system_prompt(recipe)
        | engine(recipe.student.engine, recipe.engine)
    )


def _report(recipe: Dasd, title: str) -> Content:
    healed = ["healed"] if recipe.student.heal else []
    report: Content = {
        "kind": "report",
        "title": title,
        "heldout_scores": recipe.scores,
        "exposure_scores": {name: f"exposure_{name}" for name in recipe.exposed},
        "sample": "sample",
        "filters": ["filter", *(["filter_mixed"] if recipe.mixed_policy else [])],
        "select": "select",
        "train": [*healed, *recipe.students],
    }
    if recipe.mixed_policy:
        report |= {"rollouts": "rollouts", "continuations": "continuations"}
    if recipe.evaluated:
        report |= {"evaluate": "evaluate"}
    return report | {"verify": "verify", "export": f"{recipe.students[-1]}_hf"}
