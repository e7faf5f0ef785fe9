"""Stages and settings that several parts of the recipe ``dasd`` are made of.

A stage holds what the recipe's fields give and what connects it with others; all else is left to
the defaults of its kind.
"""

from pydantic import BaseModel

from megatron_dasd.config.base import Engine
from megatron_dasd.config.recipes.dasd.fields import Dasd, Rollouts
from megatron_dasd.config.yaml_files import Content

type Stages = dict[str, Content]
"""Stages by name, as a pipeline file holds them."""


def given(part: BaseModel) -> Content:
    """What was given of some settings; defaults are left out."""
    return part.model_dump(mode="json", exclude_unset=True)


def with_defaults(settings: Content, defaults: Content) -> Content:
    """The settings, and of the recipe's defaults those that they do not set."""
    return settings | {name: value for name, value in defaults.items() if name not in settings}


def without_none(**settings: object) -> Content:
    """The settings without those that are None."""
    return {name: value for name, value in settings.items() if value is not None}


def system_prompt(recipe: Dasd) -> Content:
    """The setting ``system_prompt``, if there is one."""
    return without_none(system_prompt=recipe.system_prompt)


def engine(*engines: Engine | None) -> Content:
    """The setting ``engine``: the first one that is given."""
    return next(({"engine": given(engine)} for engine in engines if engine), {})


def thinking(recipe: Dasd) -> Content:
    """The setting ``thinking``: the teacher's delimiters, or that there are none."""
    if recipe.plain_answers:
        return {"thinking": None}
    return {"thinking": given(recipe.thinking)} if recipe.thinking else {}


def teacher(recipe: Dasd) -> Content:
    """The setting ``model`` of stages that ask the teacher; a server may have its own template."""
    source = recipe.teacher
    made = source and (source.gguf or source.random)
    return without_none(model="teacher" if made else source and source.model)


def asked(recipe: Dasd) -> Content:
    """Settings of stages in which the teacher writes."""
    source = recipe.teacher
    return (
        without_none(max_new_tokens=recipe.max_new_tokens)
        | system_prompt(recipe)
        | without_none(few_shot=source.few_shot if source else None)
        | engine(source.engine if source else None, recipe.engine)
    )


def student(recipe: Dasd) -> str:
    """Folder of the student's architecture and tokenizer."""
    return recipe.student.model or "student"


def start(recipe: Dasd) -> str:
    """Checkpoint that the method begins with."""
    return "healed" if recipe.student.heal else "student_checkpoint"


def selected(recipe: Dasd) -> str:
    """The responses that are trained on."""
    return recipe.responses or "select"


def filter_stage(recipe: Dasd, responses: str, max_length: int) -> Content:
    """Quality filters of texts that the teacher wrote."""
    return (
        {"kind": "filter_responses", "responses": [responses], "student": student(recipe)}
        | thinking(recipe)
        | {"max_length": max_length}
        | system_prompt(recipe)
    )


def score_stage(recipe: Dasd, responses: str, checkpoint: str) -> Content:
    """Log-probs of a student; without the few-shot messages, which are for selection.

    What fits a training row can be scored, unless ``scoring`` says otherwise.
    """
    scoring = given(recipe.scoring)
    scoring.setdefault("batch_tokens", recipe.seq_length)
    scoring.pop("few_shot", None)
    connected = {"responses": responses, "model": student(recipe), "checkpoint": checkpoint}
    return scoring | connected | system_prompt(recipe)


def heldout_score(recipe: Dasd, responses: str, checkpoint: str) -> Content:
    """The same, of held-out responses."""
    return score_stage(recipe, responses, checkpoint) | {"split": "heldout"}


def data_stage(recipe: Dasd, responses: str, **more: object) -> Content:
    """Responses packed into rows."""
    return (
        {"kind": "preprocess_data", "model": student(recipe), "responses": responses}
        | more
        | system_prompt(recipe)
        | {"seq_length": recipe.seq_length}
        | without_none(pack_align=recipe.pack_align)
    )


def rollout_stage(recipe: Dasd, rollouts: Rollouts, model: str, responses: str) -> Content:
    """The student answers; with the student's engine, unless the part has its own."""
    settings = given(rollouts) | {"model": model, "responses": responses} | system_prompt(recipe)
    own = {} if "engine" in settings else engine(recipe.student.engine, recipe.engine)
    return settings | own


def continue_stage(recipe: Dasd, rollouts: str) -> Content:
    """The teacher goes on where the student's text was cut."""
    return (
        {"kind": "continue_teacher"}
        | teacher(recipe)
        | {"rollouts": rollouts}
        | asked(recipe)
        | thinking(recipe)
    )


def export_stage(recipe: Dasd, checkpoint: str) -> Content:
    """A checkpoint as a Hugging Face folder."""
    return {"kind": "export_hf", "model": student(recipe), "checkpoint": checkpoint}
